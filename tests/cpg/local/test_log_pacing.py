"""Log lines that others can cause: one a minute for each cause, with a count."""

import logging

import pytest
import trio
from trio.testing import MockClock

from cpg.local.access import Access
from cpg.local.log_pacing import PacedLog
from totem import log_pacing
from totem.log_fields import event_fields, fields_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_one_line_a_minute_and_cause(clock, lines):
    paced_log = PacedLog(clock)
    for number in range(60_000):
        clock.now = number * 0.001  # a thousand a second
        paced_log.warning(("connect", number % 2), "process %d of %d", number, number % 2)
    assert lines() == ["process 0 of 0", "process 1 of 1"]
    clock.now = 61.0
    paced_log.log_counts(clock.now)
    assert lines()[2:] == [
        "process 59998 of 0 (29999 times more in a minute)",
        "process 59999 of 1 (29999 times more in a minute)",
    ]
    clock.now = 62.0
    paced_log.warning(("connect", 0), "again")
    assert len(lines()) == 4
    clock.now = 200.0
    paced_log.log_counts(clock.now)
    paced_log.log_counts(300.0)
    assert lines()[4:] == ["again (1 times more in a minute)"]


def test_some_causes_have_more_lines(clock, lines):
    paced_log = PacedLog(clock)
    for number in range(5):
        paced_log.log(logging.INFO, "elections", "event %d", number, most=3)
    assert lines() == ["event 0", "event 1", "event 2"]
    paced_log.log_counts(60.0)
    assert lines()[3:] == ["event 4 (2 times more in a minute)"]


def test_levels_and_texts_are_kept(clock, caplog):
    caplog.set_level(logging.INFO)
    paced_log = PacedLog(clock)
    paced_log.log(logging.INFO, "a", "100 %% %s", "sure")
    paced_log.log(logging.INFO, "a", "100 %% %s", "surer")
    paced_log.log_counts(60.0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "100 % sure"),
        ("INFO", "100 % surer (1 times more in a minute)"),
    ]


def test_fields_are_those_of_the_last_line_with_how_many_there_were(clock, caplog):
    paced_log = PacedLog(clock)
    for pid in (1, 2, 3):
        paced_log.warning("a", "process %d", pid, fields=event_fields("refused", pid=pid))
    paced_log.log_counts(60.0)
    assert [fields_of(record) for record in caplog.records] == [
        {"event": "refused", "pid": 1},
        {"event": "refused", "pid": 3, "unlogged": 2},
    ]


def test_causes_are_bounded(clock, lines, monkeypatch):
    monkeypatch.setattr(log_pacing, "MOST_CAUSES", 3)
    paced_log = PacedLog(clock)
    for uid in range(1000):
        paced_log.warning(uid, "user %d", uid)
    assert lines() == ["user 0", "user 1", "user 2", "user 3"]
    paced_log.log_counts(60.0)
    assert lines()[4:] == ["user 999 (996 times more in a minute)"]


def test_a_count_is_logged_though_nothing_follows(lines):
    async def main():
        paced_log = PacedLog(trio.current_time)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(paced_log.keep_logging_counts)
            for number in range(3):
                paced_log.warning("a", "process %d", number)
            await trio.sleep(3 * log_pacing.INTERVAL)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert lines() == ["process 0", "process 2 (2 times more in a minute)"]


def test_who_may_not_connect_is_logged_once_a_user(lines, caplog):
    access = Access()
    for pid in range(1000):
        assert "uid 7" in access.refuse(pid, 7)
        assert "'cluck'" in access.refuse_group(b"cluck", pid, 7)
    access.refuse(1, 8)
    assert len(lines()) == 3
    assert [fields_of(record) for record in caplog.records] == [
        {"event": "refused", "pid": 0, "uid": 7},
        {"event": "refused", "pid": 0, "uid": 7, "group": "cluck"},
        {"event": "refused", "pid": 1, "uid": 8},
    ]
