"""The bench's arithmetic: medians, what counts, what has changed, what is reached."""

from dataclasses import replace

import pytest

from bench import history
from bench.figures import Change, Figure, Key, Sample, change, number, summarize
from bench.goals import GOALS, Goal, score
from bench.parts import PARTS
from bench.rings import Flood

RATE = Key("one sender", 64, "ours", "messages/s")
DELAY = RATE._replace(unit="µs, p50")


def figure(value, key=RATE, low=None, high=None, flaw=""):
    return Figure(*key, value, value if low is None else low, value if high is None else high, 5, flaw)


# ---- figures


def test_a_figure_is_the_median_of_its_runs_and_their_range():
    samples = [Sample(RATE, value) for value in (3, 1, 2, 9, 4)]
    assert summarize(samples) == [Figure("one sender", 64, "ours", "messages/s", 3, 1, 9, 5)]


def test_figures_come_in_the_order_in_which_their_keys_came_first():
    samples = [Sample(DELAY, 1), Sample(RATE, 2), Sample(DELAY, 3)]
    assert [one.key for one in summarize(samples)] == [DELAY, RATE]


def test_runs_with_a_flaw_are_left_out_and_reported():
    samples = [Sample(RATE, 10), Sample(RATE, 500, "membership changed"), Sample(RATE, 12)]
    (found,) = summarize(samples)
    assert (found.value, found.high, found.runs) == (11, 12, 3)
    assert found.flaw == "1 of 3 runs: membership changed"


def test_a_figure_of_which_no_run_counts_still_has_a_value():
    (found,) = summarize([Sample(RATE, 10, "orders differ"), Sample(RATE, 12, "membership changed")])
    assert found.value == 11
    assert found.flaw == "1 of 2 runs: orders differ; 1 of 2 runs: membership changed"


# ---- changes


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (figure(120), figure(100), Change(1.2, better=True, sure=True)),
        (figure(80), figure(100), Change(0.8, better=False, sure=True)),
        (figure(80, DELAY), figure(100, DELAY), Change(0.8, better=True, sure=True)),
        (figure(120, DELAY), figure(100, DELAY), Change(1.2, better=False, sure=True)),
        (figure(80, low=70, high=95), figure(100, low=90, high=110), Change(0.8, better=False, sure=False)),
        (figure(95), figure(100), Change(0.95, better=False, sure=False)),
        (replace(figure(80), runs=1), figure(100), Change(0.8, better=False, sure=False)),
    ],
    ids=["more", "less", "sooner", "later", "ranges overlap", "less than a tenth", "one round"],
)
def test_changes(now, before, expected):
    assert change(now, before) == expected


@pytest.mark.parametrize("before", [None, figure(0), figure(100, flaw="1 of 5 runs: orders differ")])
def test_there_is_no_change_from_what_was_not_measured(before):
    assert change(figure(100), before) is None


def test_what_does_not_count_has_not_changed():
    assert change(figure(100, flaw="1 of 5 runs: orders differ"), figure(50)) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.1234, "0.123"), (1.5, "1.5"), (12.345, "12.3"), (99.96, "100"), (123.4, "123"), (81900.4, "81,900")],
)
def test_numbers(value, text):
    assert number(value) == text


# ---- what counts


def report(**changes):
    return {"msgs_per_s": 100, "order": "1f", "confchgs": 0, "finished": 3, "delivered": 1000} | changes


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        ({}, ""),
        ({"confchgs": 1}, "membership changed"),
        ({"order": "2f"}, "orders differ"),
        ({"finished": 2}, "ended before it was complete"),
        ({"finished": 2, "order": "2f"}, "ended before it was complete"),
    ],
)
def test_a_flood_counts_only_if_all_saw_the_same_ring_and_order(changes, flaw):
    assert Flood([report(), report(), report(**changes)], [], 1).flaw == flaw


def test_a_flood_in_which_nobody_finished_does_not_count():
    assert Flood([report(finished=0)] * 3, [], 1).flaw == "ended before it was complete"


def test_a_flood_with_a_program_that_failed_does_not_count_and_gives_nothing():
    failed = Flood([], ["node 2: ended with 1"], 1)
    assert failed.flaw == "failed (node 2: ended with 1)"
    assert (failed.rate, failed.latency("p50"), failed.cost) == (0, 0, 0)


def test_a_flood_is_as_fast_as_the_slowest_and_as_late_as_the_last():
    reports = [
        report(msgs_per_s=rate, latency_us={"p50": p50, "p99": 2 * p50}) for rate, p50 in ((90, 7), (100, 9), (95, 8))
    ]
    done = Flood(reports, [], cpu=0.006)
    assert (done.rate, done.latency("p50"), done.latency("p99")) == (90, 9, 18)
    assert done.cost == pytest.approx(2)  # 6 ms for 3000 deliveries


# ---- goals


def verdict(goal, *figures):
    (one,) = score([goal], {("part", found.key): found for found in figures})
    return one.verdict


def test_goals_that_are_times_the_rivals_rate():
    goal = Goal("", "part", RATE, rival="Corosync", least=2)
    rival = figure(100, RATE._replace(system="Corosync"))
    assert verdict(goal, figure(200), rival) == "yes"
    assert verdict(goal, figure(199), rival) == "**no**"
    assert verdict(goal, figure(200)) == "no rival's figure that counts"
    assert verdict(goal, figure(200), replace(rival, flaw="1 of 5 runs: orders differ")) == (
        "no rival's figure that counts"
    )
    assert verdict(goal, figure(200, flaw="1 of 5 runs: orders differ"), rival) == "does not count"
    assert verdict(goal, rival) == "not measured"


def test_goals_that_are_no_worse_than_the_rival():
    goal = Goal("", "part", DELAY, rival="Corosync", most=1)
    rival = figure(100, DELAY._replace(system="Corosync"))
    assert verdict(goal, figure(100, DELAY), rival) == "yes"
    assert verdict(goal, figure(101, DELAY), rival) == "**no**"


def test_goals_with_a_limit_need_no_rival():
    goal = Goal("", "part", DELAY, limit=5)
    assert verdict(goal, figure(5, DELAY)) == "yes"
    assert verdict(goal, figure(5.1, DELAY)) == "**no**"


def test_goals_that_are_a_share_of_what_goes_without_loss():
    goal = Goal("", "part", RATE._replace(at=5), rival="Corosync", share=0.4)
    base = figure(100, RATE._replace(at=0))
    rival = figure(30, RATE._replace(at=5, system="Corosync"))
    at = RATE._replace(at=5)
    assert verdict(goal, figure(40, at), rival, base) == "yes"
    assert verdict(goal, figure(39, at), rival, base) == "**no**"
    assert verdict(goal, figure(40, at), replace(rival, value=41.0), base) == "**no**"
    assert verdict(goal, figure(40, at), rival) == "**no**"


def test_goals_are_of_parts_that_there_are():
    assert {goal.part for goal in GOALS} <= {part.name for part in PARTS}


# ---- history


def a_run(**changes):
    values = {
        "part": "throughput",
        "at": "2026-01-02T03:04:05+00:00",
        "commit": "abc",
        "machine": "a machine, 2 cores",
        "nice": 0,
        "load": 0.1,
        "versions": {"Corosync": "3.1.7"},
        "rounds": 5,
        "seconds": 1.5,
        "took": 60.0,
        "missing": {},
        "failure": "",
        "figures": (figure(100), figure(5, DELAY, flaw="1 of 5 runs: orders differ")),
    }
    return history.Run(**values | changes)


def test_what_is_appended_is_read_again(tmp_path):
    file = tmp_path / "new" / "history.jsonl"
    assert history.read(file) == []
    runs = [a_run(), a_run(commit="def", missing={"etcd": "not there"})]
    for run in runs:
        history.append(file, run)
    assert history.read(file) == runs


def test_lines_of_the_older_form_are_passed_over(tmp_path):
    file = tmp_path / "history.jsonl"
    file.write_text('{"bench": "codec", "at": "2025-01-01", "token: decode": 1.5}\n')
    history.append(file, a_run())
    assert history.read(file) == [a_run()]


def test_the_run_before_is_of_the_same_part_and_machine():
    first, other, elsewhere, nicer, last = runs = [
        a_run(commit="1"),
        a_run(part="latency"),
        a_run(machine="another"),
        a_run(nice=19),
        a_run(commit="2"),
    ]
    assert history.last_two(runs) == {"throughput": (last, first), "latency": (other, None)}
    assert history.last_two([elsewhere, nicer]) == {"throughput": (nicer, None)}
