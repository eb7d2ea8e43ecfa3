"""Programs whose standard streams are closed, or on a full disk: reported in one line, with an exit code of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {"cpg": "cpg", "cpgd": "cpg.daemon", "cluck": "cluck", "cluckd": "cluck.daemon", "totem": "totem"}
FAILED = dict.fromkeys(PROGRAMS, 1) | {"cluck": 125}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def shell(line):
    """Run a shell's line; return exit code, output, errors."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=30)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "totem"])
def test_help_that_cannot_be_printed(program, option, to, why):
    told = f"{program}: standard output: {why}\n"
    assert shell(f"{sys.executable} -m {PROGRAMS[program]} {option} {to}") == (FAILED[program], "", told)


@pytest.mark.parametrize(("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
def test_a_capture_that_cannot_be_printed(to, why):
    [capture, *_] = sorted(Path("tests/totem/dump/captures").glob("*.pcap*"))
    code, _, err = shell(f"{sys.executable} -m totem dump {capture} {to}")
    assert (code, err) == (1, f"totem: standard output: {why}\n")


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_errors_that_nobody_reads_go_nowhere_else(program, to):
    wrong = {"cluck": "list --socket /no/such", "cpg": "groups --socket /no/such", "totem": "dump /no/such"}
    code, out, err = shell(f"{sys.executable} -m {PROGRAMS[program]} {wrong.get(program, '-c /no/such')} {to}")
    assert (out, err) == ("", "")
    assert code in (1, 2, 125)


@pytest.mark.parametrize(
    ("to", "told"),
    [
        (">/dev/full </dev/null", "standard output: No space left on device"),
        (">&- </dev/null", "standard output: it is closed"),
        ("<&-", "standard input: it is closed"),
    ],
)
def test_a_command_of_cluck_without_its_streams(to, told):
    code, _, err = shell(f"{sys.executable} -m tests.cluck.cli.fake_locks lock x {to}")
    assert (code, err) == (125, f"given back\ncluck: {told}\n")


def test_a_capture_that_cannot_be_read():
    told = "totem: -: it is closed\n"
    assert shell(f"{sys.executable} -m totem dump - <&-") == (1, "", told)


def test_a_demo_that_cannot_be_printed():
    told = "cpg: standard output: No space left on device\n"
    assert shell(f"{sys.executable} -m cpg demo --nodes 2 >/dev/full") == (1, "", told)


def test_who_reads_may_have_seen_enough():
    assert shell(f"{sys.executable} -m cluck --help | head -1") == (
        0,
        "usage: cluck [-h] [--version] COMMAND ...\n",
        "",
    )


def test_a_command_gets_no_connection_as_its_closed_output():
    """A stream without a place of its own would get that of the first socket."""
    script = 'import os, sys; print(os.readlink("/proc/self/fd/0"), os.readlink("/proc/self/fd/1"), file=sys.stderr)'
    code, out, err = shell(f"{sys.executable} -m tests.cluck.cli.fake_locks run x -- python3 -c '{script}' <&- >&-")
    assert (code, out, err) == (0, "", "/dev/null /dev/null\ngiven back\n")


@pytest.mark.parametrize(
    "line", ["totem dump FILE", "cpg.daemon -c FILE", "cpg.daemon --check -c FILE", "cluck.daemon -c FILE"]
)
def test_a_program_that_sigint_ends_shows_no_traceback(tmp_path, line):
    """Here while it opens a file, before it handles signals itself."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    command = [sys.executable, "-m", *line.replace("FILE", str(path)).split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        writer = os.open(path, os.O_WRONLY)  # returns once the program has opened it
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(writer)
    assert (process.returncode, out) == (130, b"")
