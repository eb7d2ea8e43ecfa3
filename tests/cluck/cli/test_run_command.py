"""`cluck run`: what becomes of its command, whatever becomes of the lock, of the command, and of `cluck run`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import trio

from cluck.cli import run_command, supervisor
from cluck.cli.connect import connect_in_time
from cluck.cli.exit_codes import Exit
from cluck.cli.supervised_command import Overdue, SupervisedCommand
from cluck.client import asynchronous
from tests.cluck.cli.fake_locks import TOKEN, Locks, running

PATIENCE = 20
FAKE = [sys.executable, "-m", "tests.cluck.cli.fake_locks"]


class Run:
    """A `cluck run` whose lock the test has in its hand."""

    numbers = count()

    def __init__(self, options, script, *, what="run", prefix=(), **environment):
        """`prefix`: a command that runs its arguments as a command, as the same process."""
        self.lost, lose = os.pipe()
        self.lose_end = lose
        self.mark = f"{os.getpid()}.{next(self.numbers)}"
        command = ["sh", "-c", script] if isinstance(script, str) else script
        self.process = subprocess.Popen(
            [*prefix, *FAKE, what, "backup", *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self.lost,),
            env={**os.environ, "FAKE_LOSE": str(self.lost), "FAKE_ID": self.mark, **environment},
        )
        os.close(self.lost)

    def lose(self):
        """The lock is lost."""
        os.close(self.lose_end)
        self.lose_end = None

    async def line(self):
        """The next line of its output."""
        return await line_of(self.process.stdout)

    async def complaint(self):
        """The next line of its errors."""
        return await line_of(self.process.stderr)

    def go_on(self):
        """Give it a line of input."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def running(self):
        """What of its command runs."""
        return running(self.mark)

    async def ended(self):
        """Its exit code, output and errors, when all that had its output has ended too."""

        def wait():
            out, err = self.process.communicate(timeout=PATIENCE)
            return self.process.returncode, out.decode(), err.decode()

        return await trio.to_thread.run_sync(wait)

    def close(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()
        if self.lose_end is not None:
            os.close(self.lose_end)


async def line_of(stream):
    with trio.fail_after(PATIENCE):
        return (await trio.to_thread.run_sync(stream.readline, abandon_on_cancel=True)).decode().strip()


@pytest.fixture
def run():
    runs = []

    def start(script, *options, **settings):
        runs.append(Run(options, script, **settings))
        return runs[-1]

    yield start
    for each in runs:
        each.close()


async def test_the_command_has_the_token_and_the_streams_and_gives_the_exit_code(run):
    one = run('cat; echo "$CLUCK_LOCK $CLUCK_TOKEN"; echo oh >&2; exit 7')
    one.process.stdin.write(b"what comes in\n")
    code, out, err = await one.ended()
    assert (code, out) == (7, f"what comes in\nbackup {TOKEN}\n")
    assert err == "oh\ngiven back\n"


async def test_a_command_that_a_signal_has_ended(run):
    assert (await run("kill -SEGV $$").ended())[0] == 128 + signal.SIGSEGV


@pytest.mark.parametrize(("command", "code"), [(["/no/such"], 127), (["/etc/passwd"], 126), (["no-such-thing"], 127)])
async def test_a_command_that_cannot_be_run(run, command, code):
    result, out, err = await run(command).ended()
    assert (result, out) == (code, "")
    assert f"cluck: {command[0]}: " in err
    assert "given back" not in err or "Traceback" not in err


async def test_a_line_of_a_shell_is_no_command(run):
    result, _, err = await run(["echo hi"]).ended()
    assert result == 127
    assert "cluck: echo hi: No such file or directory: this is one word; to run a line of a shell, use -- sh -c" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("LockTimeout", 124),
        ("NotReady", 122),
        ("DeadlockError", 121),
        ("KindMismatch", 123),
        ("Overflow", 123),
        ("OutcomeUnknown", 125),
        ("DaemonUnavailable", 125),
        ("ConnectionLost", 125),
        ("LockLost", 120),
    ],
)
async def test_each_way_not_to_have_the_lock_has_its_code(run, error, code):
    result, out, err = await run("echo it runs", FAKE_ERROR=error).ended()
    advice = "; see cluck status" if error == "NotReady" else ""
    assert (result, out, err) == (code, "", f"cluck: so it is{advice}\n")


async def test_a_lost_lock_ends_the_group_in_order(run):
    one = run('trap "echo child; exit" TERM; (trap "echo grandchild; exit" TERM; echo up; sleep 1000 & wait) & wait')
    assert await one.line() == "up"
    one.lose()
    code, out, err = await one.ended()
    assert code == 120
    assert sorted(out.splitlines()) == ["child", "grandchild"]
    assert err == "cluck: it was lost\n"


LOST = "it was lost, and the command was ended; no leader is chosen here now: nobody is here"


async def test_a_lost_leadership_is_reported_and_so_is_the_next_one(run):
    one = run("echo up; read -r go_on; exit 3", what="elect")
    assert await one.line() == "up"
    one.lose()
    assert await one.complaint() == f"cluck: election 'backup', leadership with token {TOKEN}: {LOST}"
    assert await one.complaint() == f"cluck: election 'backup': this candidate leads again, with token {TOKEN + 1}"
    assert await one.line() == "up"
    one.go_on()
    assert await one.ended() == (3, "", "")


async def test_a_right_and_its_command_that_end_in_one_moment():
    """The command's end is nothing then: it was lost, and may be had again."""

    class Command(SupervisedCommand):
        def __init__(self):
            pass

        def keep(self, descriptor):
            pass

        def start(self, environment, until):
            pass

        async def ended(self):
            scope.cancel()
            raise Overdue("the lease ended", Exit.LOST)

        async def end(self):
            pass

    lease = run_command._Lease({}, lambda: 0.0, trio.sleep_forever, 1000.0)
    with trio.CancelScope() as scope:
        await run_command._run_with_lease(lease, Locks(), run_command._SignalTarget(), Command())
    assert scope.cancelled_caught


async def test_a_leadership_whose_lease_ends_while_cluck_elect_hangs_is_reported(run):
    one = run("echo up; exec sleep 1000", "--duration", "1", "--grace", "0.2", what="elect")
    assert await one.line() == "up"
    one.process.send_signal(signal.SIGSTOP)
    await trio.to_thread.run_sync(wait_for_children_to_end, one.process.pid)
    one.process.send_signal(signal.SIGCONT)
    lost = "the lease ended without renewal, so the command was ended"
    assert await one.complaint() == f"cluck: election 'backup', leadership with token {TOKEN}: {lost}"
    one.lose()
    assert await one.complaint() == f"cluck: election 'backup': this candidate leads again, with token {TOKEN + 1}"


async def test_what_ignores_the_signal_is_killed_after_the_grace(run):
    one = run('trap "" TERM; echo up; sleep 1000; sleep 1000', "--grace", "0.2")
    assert await one.line() == "up"
    one.lose()
    assert (await one.ended())[0] == 120


async def test_a_lease_that_is_not_renewed_ends_the_command(run):
    one = run("echo up; exec sleep 1000", "--duration", "1", "--grace", "0.2", FAKE_MUTE="yes")
    assert await one.line() == "up"
    one.process.send_signal(signal.SIGSTOP)  # it cannot do anything about it
    await trio.to_thread.run_sync(wait_for_children_to_end, one.process.pid)
    one.process.send_signal(signal.SIGCONT)
    code, _, err = await one.ended()
    assert code == 120
    assert err.endswith("cluck: the lease ended without renewal, so the command was ended\n")


def wait_for_children_to_end(pid):
    """Wait until no process has this one as its ancestor but zombies."""
    path = f"/proc/{pid}/task/{pid}/children"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with open(path, encoding="ascii") as file:
            children = file.read().split()
        if all(state(child) == "Z" for child in children):
            return
        os.sched_yield()
    raise AssertionError(f"process {pid} still has children: {children}")


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


async def test_a_long_command_keeps_its_lease(run):
    one = run("sleep 4", "--duration", "3", "--grace", "0.2")
    code, _, err = await one.ended()
    assert (code, err) == (0, "given back\n")


async def test_all_is_killed_where_cluck_run_is(run):
    one = run('trap "" TERM HUP; sleep 1000 & echo up; sleep 1000; sleep 1000')
    assert await one.line() == "up"
    one.process.kill()
    code, out, _ = await one.ended()  # at the end of its output nobody is left who has it
    assert (code, out) == (-signal.SIGKILL, "")


async def test_all_is_killed_where_the_supervisor_is(run):
    one = run('trap "" TERM HUP; echo $PPID; sleep 1000 & sleep 1000; sleep 1000')
    supervisor_id = int(await one.line())
    os.kill(supervisor_id, signal.SIGKILL)
    code, _, err = await one.ended()
    assert code == 125
    assert "the process that supervises the command was killed" in err


async def test_a_supervisor_that_is_stopped_is_not_waited_for(run):
    one = run("echo $PPID; exec sleep 1000", "--grace", "0.1")
    os.kill(int(await one.line()), signal.SIGSTOP)
    one.lose()
    assert (await one.ended())[0] == 120


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
async def test_signals_are_the_commands(run, name):
    one = run(f'trap "echo {name}; exit 3" {name}; echo up; while :; do sleep 0.01; done')
    assert await one.line() == "up"
    one.process.send_signal(getattr(signal, f"SIG{name}"))
    code, out, err = await one.ended()
    assert (code, out) == (3, f"{name}\n")
    assert err.endswith("given back\n")  # behind what the shell says of its children


async def test_a_signal_that_is_ignored_stays_so(run):
    one = run(["python3", "-c", "import signal; print(signal.getsignal(signal.SIGHUP).name)"])
    assert (await one.ended())[1] == "SIG_DFL\n"
    script = f"trap '' HUP; exec {sys.executable} -m tests.cluck.cli.fake_locks run x -- python3 -c "
    script += "'import signal; print(signal.getsignal(signal.SIGHUP).name)'"
    done = await trio.run_process(["sh", "-c", script], capture_stdout=True, capture_stderr=True)
    assert done.stdout == b"SIG_IGN\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_the_lock_is_waited_for(run, number):
    one = run("echo it runs", FAKE_ERROR="wait")
    assert await one.line() == "waiting"
    one.process.send_signal(number)
    code, out, err = await one.ended()
    assert (code, out, err) == (128 + number, "", "")


async def test_what_the_command_leaves_running_has_the_grace_then_it_is_killed(run):
    one = run("(sleep 0.2; echo late) & echo early")
    code, out, err = await one.ended()
    assert (code, out, err) == (0, "early\nlate\n", "given back\n")
    one = run("sleep 1000 & exit 4", "--grace", "0.2")
    code, out, err = await one.ended()
    assert (code, out, err) == (4, "", "given back\n")


NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""Python may stand in a folder of root's."""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

SLEEPER = "echo up; exec sleep 1000"
UP = f"sh -c '{SLEEPER}'"
HIDING = {
    "in the group": f"{UP} &",
    "timeout": f"timeout 1000 {UP} &",
    "nohup": f"nohup {UP} &",
    "set -m": f"set -m; {UP} & set +m;",
    "setsid": f"setsid {UP} &",
    "setpgid": f'python3 -c \'import os; os.setpgid(0, 0); os.execvp("sh", ["sh", "-c", "{SLEEPER}"])\' &',
    "double fork": f"(setsid --fork {UP} &) &",
}
SWAPPED = {"another user": f"setpriv --reuid={NOBODY} {UP} &", "pid namespace": f"unshare --pid --fork {UP} &"}
ALL = f"echo $$ $PPID; {' '.join([*HIDING.values(), *(SWAPPED.values() if os.geteuid() == 0 else ())])} wait"
"""Processes that leave their group, their session, and their parents, in each way there is."""


@pytest.fixture(params=["this user", pytest.param("nobody", marks=only_root)])
async def hiding(run, request):
    """A run whose command has processes everywhere; as root with a cgroup, as nobody without. And its two pids."""
    as_nobody = request.param == "nobody"
    script = f"echo $$ $PPID; {' '.join(HIDING.values())} wait" if as_nobody else ALL
    prefix = (*AS_NOBODY, *READS_ALL) if as_nobody else ()
    one = run(["bash", "-c", script], "--grace", "0.2", prefix=prefix)
    command, supervisor_id = map(int, (await one.line()).split())
    for _ in range(script.count("echo up")):
        assert await one.line() == "up"
    assert len(one.running()) > script.count("echo up")
    return one, command, supervisor_id


async def test_nothing_is_left_where_the_signal_comes(hiding):
    one, _, _ = hiding
    one.process.terminate()
    code, _, err = await one.ended()
    assert code == 128 + signal.SIGTERM
    assert err.splitlines()[-1] == "given back"


async def test_nothing_is_left_where_the_lock_is_lost(hiding):
    one, _, _ = hiding
    one.lose()
    assert (await one.ended())[0] == 120
    assert not one.running()


async def test_nothing_is_left_where_the_command_ends(hiding):
    one, command, _ = hiding
    os.kill(command, signal.SIGKILL)
    code, _, err = await one.ended()
    assert code == 128 + signal.SIGKILL
    assert err.splitlines()[-1] == "given back"


async def test_nothing_is_left_where_cluck_run_is_killed(hiding):
    one, _, _ = hiding
    one.process.kill()
    assert (await one.ended())[0] == -signal.SIGKILL
    assert not one.running()


async def test_nothing_is_left_where_the_supervisor_is_killed(hiding):
    one, _, supervisor_id = hiding
    os.kill(supervisor_id, signal.SIGKILL)
    code, _, err = await one.ended()
    assert code == 125
    assert "the process that supervises the command was killed" in err
    assert err.splitlines()[0] == "given back"  # in the moment in which it was, nothing else ran


async def test_a_cgroup_is_removed(hiding):
    one, _, supervisor_id = hiding
    folder = cgroup_of(supervisor_id)
    one.process.terminate()
    await one.ended()
    assert folder is None or not folder.exists()


def cgroup_of(supervisor_id):
    """The folder of the cgroup that a supervisor has made for its command; None where it could not."""
    made = supervisor._make_cgroup()
    if made is None:
        return None
    os.rmdir(made)
    folder = Path(made).with_name(f"cluck-{supervisor_id}")
    return folder if folder.exists() else None


@pytest.fixture
def foreign(tmp_path):
    """A command that says its process id and sleeps, as root whoever starts it, as with sudo."""
    path = tmp_path / "setpriv"
    shutil.copy(shutil.which("setpriv"), path)
    path.chmod(0o4755)
    tmp_path.chmod(0o755)
    return f"{path} --reuid=0 sh -c 'echo $$; exec sleep 1000'"


@only_root
async def test_who_may_not_be_signalled_keeps_the_lock(run, foreign):
    one = run(f"{foreign} & read -r go_on; exit 3", "--grace", "0.1", prefix=(*AS_NOBODY, *READS_ALL))
    pid = int(await one.line())
    one.go_on()
    assert await one.complaint() == f"cluck: process {pid} of user root cannot be signalled: waiting until it ends"
    assert state(pid) in "SR"
    os.kill(pid, signal.SIGKILL)
    code, _, err = await one.ended()
    assert (code, err) == (3, "given back\n")


@only_root
async def test_who_may_not_be_signalled_is_waited_for_where_the_lock_is_lost(run, foreign):
    one = run(f"{foreign} & wait", "--grace", "0.1", prefix=(*AS_NOBODY, *READS_ALL))
    pid = int(await one.line())
    one.lose()
    assert "cannot be signalled" in await one.complaint()
    os.kill(pid, signal.SIGKILL)
    assert (await one.ended())[0] == 120


@only_root
async def test_a_cgroup_ends_who_may_not_be_signalled(run, foreign):
    folder = supervisor._make_cgroup()
    if folder is None:
        pytest.skip("no cgroup (v2) can be made here")
    try:
        for path in (Path(folder), *Path(folder).iterdir()):
            os.chown(path, NOBODY, NOBODY)
        enter = ("sh", "-c", f'echo 0 > {folder}/cgroup.procs; exec "$@"', "enter")
        one = run(f"{foreign} & read -r go_on; exit 3", "--grace", "0.1", prefix=(*enter, *AS_NOBODY, *READS_ALL))
        await one.line()
        one.go_on()
        code, _, err = await one.ended()
        assert (code, err) == (3, "given back\n")
    finally:
        os.rmdir(folder)


async def test_daemons_are_let_go_where_that_is_wanted(run):
    daemon = "setsid --fork sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1'"
    one = run(f"{daemon}; timeout 1000 {UP} & exit 3", "--grace", "0.2", "--leave-daemons")
    lines = sorted([await one.line(), await one.line()])
    pid = int(lines[0])
    code, _, err = await one.ended()
    assert (code, lines[1]) == (3, "up")
    assert err == "given back sleep 1000\n"
    assert state(pid) in "SR"
    os.kill(pid, signal.SIGKILL)


async def test_daemons_are_let_go_also_where_the_supervisor_is_killed(run):
    daemon = "setsid --fork sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1'"
    one = run(f"echo $PPID; {daemon}; timeout 1000 {UP} & wait", "--leave-daemons")
    supervisor_id = int(await one.line())
    pid = int(sorted([await one.line(), await one.line()])[0])
    os.kill(supervisor_id, signal.SIGKILL)
    code, _, err = await one.ended()
    assert (code, err.splitlines()[0]) == (125, "given back sleep 1000")
    assert state(pid) in "SR"
    os.kill(pid, signal.SIGKILL)


async def test_a_lock_is_held_on_behind_a_short_command(run):
    one = run("echo done; exit 3", "--hold-at-least", "1", "--duration", "1", FAKE_LEAST="1")
    assert await one.ended() == (3, "done\n", "given back\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_cuts_short_that_a_lock_is_held_on(run, number):
    one = run(f"trap '' {number.value}; echo done", "--hold-at-least", "1000")
    assert await one.line() == "done"
    one.process.send_signal(number)  # whether the command has ended or not
    assert await one.ended() == (0, "", "given back\n")


async def test_a_lock_that_is_lost_while_it_is_held_on(run):
    one = run("echo done; exit 3", "--hold-at-least", "1000", "--duration", "1", FAKE_TELL="yes")
    assert await one.line() == "done"
    await trio.to_thread.run_sync(wait_for_children_to_end, one.process.pid)
    for _ in range(2):  # the first may have begun before the end was seen
        assert await one.complaint() == "renewed"
    one.lose()
    code, _, err = await one.ended()
    assert code == 3
    assert err.endswith("cluck: it was lost, before --hold-at-least was over: others may run the command too\n")


async def test_a_command_that_cannot_be_run_here_may_be_run_elsewhere_at_once(run):
    assert (await run(["/no/such"], "--hold-at-least", "1000").ended())[0] == 127


@pytest.mark.parametrize(
    ("streams", "text"),
    [
        ("<&-", "standard input: it is closed"),
        (">/dev/full", "standard output: No space left on device"),
    ],
)
async def test_streams_that_cannot_be_used_are_named(streams, text):
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", *FAKE, "lock", "backup"]
    done = await trio.run_process(command, check=False, capture_stderr=True)
    assert done.returncode == 125
    assert f"cluck: {text}\n" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "backup"], "the command to be run is missing"),
        (["run", "backup", "--"], "the command to be run is missing"),
        (["run", "backup", "echo", "hi"], "before it: cluck run backup -- echo hi\n"),
        (["run", "x", "echo", "hi", "--socket", "P"], "before it: cluck run x --socket P -- echo hi\n"),
        (["run", "my lock", "echo", "it's"], """before it: cluck run 'my lock' -- echo 'it'"'"'s'\n"""),
        (["run", "echo", "--grace", "3", "echo", "-n"], "before it: cluck run echo --grace 3 -- echo -n\n"),
        (["elect", "boss", "serve"], "cluck elect: error: the command to be run stands after --"),
        (["run", "backup", "--tmeout", "3", "--", "true"], "cluck run: error: unrecognized arguments: --tmeout 3"),
        (
            ["run", "my", "lock", "--", "true"],
            "unrecognized arguments: lock (a NAME that contains blanks must be",
        ),
        (["run", "x", "--duration", "5m", "--", "true"], "--duration: 5m is not a number of seconds, 1 to 604800"),
        (["elect", "x", "--port", "http", "--", "true"], "http is not a whole number between 0 and 65535"),
        (["list", "--socket", ""], "--socket: the path is empty: leave the option out for the usual one"),
        (["--socket", "P", "run", "x", "--", "true"], "--socket stands before the command: options stand behind it"),
        (["list", "one", "two"], "cluck list: error: unrecognized arguments: two"),
        (["run", "", "--", "true"], "a name has 1 to 1024 bytes, this one has 0"),
        (["run", "x" * 1025, "--", "true"], "this one has 1025"),
        (["run", "backup", "--timeout", "-1", "--", "true"], "-1 is not a number of seconds, 0 or more"),
        (["run", "backup", "--duration", "0", "--", "true"], "0 is not a number of seconds, 1 to 604800"),
        (["run", "backup", "--grace", "nan", "--", "true"], "nan is not a number of seconds"),
        (["list", "--", "true"], "cluck list runs no command"),
        (["unlock", "backup"], "--force"),
        (["nonsense"], "nonsense"),
    ],
)
async def test_wrong_usage_has_a_code_of_its_own(arguments, text):
    done = await trio.run_process([*FAKE, *arguments], check=False, capture_stdout=True, capture_stderr=True)
    assert done.returncode == 119
    assert text in done.stderr.decode()


# ---- a lock server that does not welcome


@pytest.fixture
def silent(tmp_path):
    """The socket of a lock server that stands still."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield tmp_path / "socket"


@pytest.mark.parametrize("command", ["run", "lock", "wait"])
@pytest.mark.parametrize(("timeout", "longest"), [("0", "1"), ("1.5", "1.5")])
async def test_the_time_counts_from_the_start_where_the_lock_server_stands_still(silent, command, timeout, longest):
    line = [sys.executable, "-m", "cluck", command, "backup", "--socket", silent, "--timeout", timeout]
    if command == "run":
        line += ["--", "echo", "up"]
    done = await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)
    error = f"cluck: cluckd has not answered for {longest} s: it is starting, or hangs; "
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.decode().startswith(error)


@pytest.mark.parametrize(
    ("late", "timeout", "left"),
    [(0.5, 5, 5), (3, 5, 3), (4.9, 5, 1.1), (0.5, 0, 0), (0.9, 0.1, 0.1), (9, None, None)],
)
async def test_a_lock_server_that_welcomes_late_leaves_less_time_for_the_lock(
    monkeypatch, autojump_clock, *, late, timeout, left
):
    @asynccontextmanager
    async def connect(_):
        await trio.sleep(late)
        yield "locks"

    monkeypatch.setattr(asynchronous, "connect", connect)
    async with connect_in_time(None, timeout) as (locks, found):
        assert (locks, found) == ("locks", left and pytest.approx(left))
        await trio.sleep(100)
