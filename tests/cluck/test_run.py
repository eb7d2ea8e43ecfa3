"""`cluck run`: what becomes of its command, whatever becomes of the lock, of the command, and of `cluck run`."""

import os
import signal
import subprocess
import sys

import pytest
import trio

from tests.cluck.fake_locks import TOKEN

PATIENCE = 20
FAKE = [sys.executable, "-m", "tests.cluck.fake_locks"]


class Run:
    """A `cluck run` whose lock the test has in its hand."""

    def __init__(self, options, script, **environment):
        self.lost, lose = os.pipe()
        self.lose_end = lose
        self.process = subprocess.Popen(
            [*FAKE, "run", "backup", *options, "--", *(["sh", "-c", script] if isinstance(script, str) else script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self.lost,),
            env={**os.environ, "FAKE_LOSE": str(self.lost), **environment},
        )
        os.close(self.lost)

    def lose(self):
        """The lock is lost."""
        os.close(self.lose_end)
        self.lose_end = None

    async def line(self):
        """The next line of its output."""
        return await trio.to_thread.run_sync(lambda: self.process.stdout.readline().decode().strip())

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


@pytest.fixture
def run():
    runs = []

    def start(script, *options, **environment):
        runs.append(Run(options, script, **environment))
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
    assert (result, out, err) == (code, "", "cluck: so it is\n")


async def test_a_lost_lock_ends_the_group_in_order(run):
    one = run('trap "echo child; exit" TERM; (trap "echo grandchild; exit" TERM; echo up; sleep 1000 & wait) & wait')
    assert await one.line() == "up"
    one.lose()
    code, out, err = await one.ended()
    assert code == 120
    assert sorted(out.splitlines()) == ["child", "grandchild"]
    assert err == "cluck: it was lost\n"


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
    assert (code, err) == (120, "cluck: the lease ended without renewal, and the command with it\n")


def wait_for_children_to_end(pid):
    """Wait until no process has this one as its ancestor but zombies."""
    path = f"/proc/{pid}/task/{pid}/children"
    while True:
        with open(path, encoding="ascii") as file:
            children = file.read().split()
        if all(state(child) == "Z" for child in children):
            return
        os.sched_yield()


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


async def test_all_is_killed_where_the_guardian_is(run):
    one = run('trap "" TERM HUP; echo $PPID; sleep 1000 & sleep 1000; sleep 1000')
    guardian = int(await one.line())
    os.kill(guardian, signal.SIGKILL)
    code, _, err = await one.ended()
    assert code == 125
    assert "the process that guards the command was killed" in err


async def test_a_guardian_that_is_stopped_is_not_waited_for(run):
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
    script = f"trap '' HUP; exec {sys.executable} -m tests.cluck.fake_locks run x -- python3 -c "
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


async def test_who_leaves_the_group_is_let_go(run):
    one = run("setsid sleep 1000 >/dev/null 2>&1 & echo $!", "--grace", "0.2")
    code, out, _ = await one.ended()
    assert code == 0
    pid = int(out)
    assert state(pid) in "SR"
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "backup"], "what is to be run is missing"),
        (["run", "backup", "--"], "what is to be run is missing"),
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
