"""The demo: its run on real processes, its verdict, and its display."""

import io
import re

import pytest

from cpg.cli.demo import DemoFailed, DemoProcess, demo, difference
from cpg.cli.demo_display import PlainDisplay, TerminalDisplay, display_for
from tests.cpg.processes import run


async def test_the_demo_ends_with_the_same_sequence_everywhere():
    code, out, err = await run("demo")
    assert (code, err) == (0, "")
    narration = [line.split("== ")[1] for line in out.splitlines() if "== " in line]
    assert narration[0] == "3 processes start, each a node of one ring."
    assert re.fullmatch(r"All saw the same sequence: \d+ messages and every change of the group\.", narration[-1])
    assert re.search(r"node 1: +- node 3 \(nodedown\)", out)
    assert re.search(r"node 2: +\+ node 3 \(join\)", out)
    assert "node 3 (restarted):" in out


def life(node, story, state="here"):
    return DemoProcess(node, 1, None, state, story=story)


@pytest.mark.parametrize(
    ("reference", "other", "state", "same"),
    [
        ("Aabcd", "Aabcd", "here", True),
        ("AaBbc", "Bbc", "here", True),  # it came later
        ("Bbc", "AaBbc", "here", True),  # the other way round
        ("AaBbc", "Bb", "here", False),  # it lacks one
        ("AaBbc", "Bbcd", "here", False),
        ("AaBbc", "Bcb", "here", False),
        ("AaBbc", "Bb", "killed", True),  # a beginning
        ("AaBbc", "Bbx", "killed", True),  # the last one was told to it alone
        ("AaBbc", "Bcx", "killed", False),
        ("AaBbc", "Cbc", "here", False),  # they never met
        ("AaBbc", "", "killed", False),
    ],
)
def test_the_verdict(reference, other, state, same):
    assert (difference(life(1, [*reference]), life(2, [*other], state)) == "") is same


EVENTS = [
    {"event": "confchg", "members": [[1, 5]], "left": [], "joined": [[1, 5, "join"]]},
    {"event": "ring", "ring": [1, 4], "members": [1, 2]},
    {"event": "message", "sender": [1, 5], "level": "agreed", "data": "aGVsbG8="},
    {"event": "transitional", "members": [1]},
    {"event": "confchg", "members": [[1, 5]], "left": [[2, 6, "nodedown"]], "joined": []},
]


class FakeProcess:
    pid = 4711


def test_plain_lines():
    out = io.StringIO()
    display = display_for(out)
    assert isinstance(display, PlainDisplay)
    display.narrate("Something happens.")
    process = DemoProcess(2, 1, FakeProcess())
    display.enter(process)
    for event in EVENTS:
        display.show(process, event)
    display.conclude("All is well.", good=True)
    display.close()
    lines = [line[10:] for line in out.getvalue().splitlines()]
    assert lines == [
        "== Something happens.",
        "node 2:                + node 1 (join)",
        "node 2:                ○ ring of 1 2",
        "node 2:                1: hello",
        "node 2:                ~ 1 stay together",
        "node 2:                - node 2 (nodedown)",
        "== All is well.",
    ]


def test_columns_in_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    out = io.StringIO()
    display = TerminalDisplay(out)
    display.narrate("Something happens.")
    for node in (1, 2):
        process = DemoProcess(node, 1, FakeProcess(), "killed" if node == 2 else "here")
        display.enter(process)
        for event in EVENTS:
            display.show(process, event)
    display.close()
    frame = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue().split("\x1b[J")[-2])
    lines = frame.splitlines()
    assert re.match(r"● node 1 +pid 4711 +✕ node 2 +killed", lines[0])
    assert lines[-1].endswith("Something happens.")
    assert len(lines) < 24
    assert all(len(line) <= 80 for line in lines)


async def test_a_demo_whose_processes_cannot_be_started(tmp_path, monkeypatch):
    place = tmp_path / "python"
    place.touch(0o600)
    monkeypatch.setattr("cpg.cli.demo.sys.executable", str(place))
    with pytest.raises(DemoFailed, match=r"node 1 cannot be started: .*/python: Permission denied"):
        await demo(2, display_for(io.StringIO()))
