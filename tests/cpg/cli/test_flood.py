"""The flood's counting; whole floods are in `test_commands`."""

from cpg.cli.flood import END, STAMP, Tally
from cpg.events import Confchg, Member, Message
from totem.configuration import Level


def message(node, seq, sent=0, level=Level.AGREED, padding=b""):
    return Message(Member(node, 7), STAMP.pack(sent, node, seq) + padding, level)


def test_the_digest_is_that_of_cpgflood():
    tally = Tally(3)
    pairs = [(1, 0), (2, 0), (1, 1), (4294967295, 4294967294), (3, 70000)]
    tally.take([message(node, seq) for node, seq in pairs], 0, timed=False)
    assert f"{tally.digest():016x}" == "0040abb8e6266d21"  # computed by cpgflood's own line of C


def test_an_empty_digest():
    assert Tally(3).digest() == 1469598103934665603


def test_counting():
    tally = Tally(3)
    confchg = Confchg((), {}, {})
    tally.take([confchg, message(1, 0, sent=500, padding=bytes(4)), message(1, 1, sent=600)], 1000, timed=True)
    tally.take([message(2, 0, sent=1200, level=Level.SAFE), message(1, END), message(2, END)], 2200, timed=True)
    assert (tally.delivered, tally.bytes, tally.finished, tally.confchgs) == (3, 52, 2, 1)
    assert (tally.first, tally.last) == (1000, 2200)
    assert tally.latencies == [500, 400, 1000]
    assert tally.levels == {"agreed", "safe"}


def test_changes_behind_the_last_end_do_not_count():
    tally = Tally(2)
    leave = Confchg((), {}, {})
    tally.take([leave, message(1, END), leave, message(2, END), leave, leave], 0, timed=False)
    assert (tally.finished, tally.confchgs) == (2, 2)
