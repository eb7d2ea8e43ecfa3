"""RESULTS.md as it is written of given runs."""

from dataclasses import replace

from bench.figures import Figure
from bench.goals import Goal
from bench.parts import Part
from bench.report import losses, plot_name, render, section
from tests.bench.test_figures import RATE, a_run

FIGURES = (
    Figure("one sender", 64, "Corosync", "messages/s", 40000, 39000, 41000, 5),
    Figure("one sender", 64, "ours", "messages/s", 82000, 80000, 83000, 5),
    Figure("one sender", 1024, "Corosync", "messages/s", 20000, 19000, 21000, 5),
    Figure("one sender", 1024, "ours", "messages/s", 99, 98, 100, 5, "1 of 5 runs: orders differ"),
    Figure("one sender", 64, "ours", "µs, p50", 12.5, 12, 13, 5),
)
BEFORE = (
    Figure("one sender", 64, "Corosync", "messages/s", 40400, 39000, 41000, 5),
    Figure("one sender", 64, "ours", "messages/s", 102500, 99000, 105000, 5),
    Figure("one sender", 64, "ours", "µs, p50", 10, 9, 11, 5),
)
PART = Part("throughput", "Throughput", "As fast as they may.", lambda bench: None, axis="bytes")
RUN = a_run(figures=FIGURES)

SECTION = """\
## Throughput

As fast as they may.

2026-01-02 03:04, commit abc; medians of 5 rounds, beside the run of 2025-12-31 03:04, commit 123.

| messages/s | bytes | Corosync | ours |
| --- | ---: | ---: | ---: |
| one sender | 64 | 40,000 *−1 %* | 82,000 (2.05) **−20 %** |
| one sender | 1,024 | 20,000 | ~~99~~ |

| µs, p50 | bytes | ours |
| --- | ---: | ---: |
| one sender | 64 | 12.5 **+25 %** |

- Does not count: one sender, 1,024, ours, messages/s: 1 of 5 runs: orders differ.
"""


def earlier():
    return a_run(at="2025-12-31T03:04:05+00:00", commit="123", figures=BEFORE)


def test_a_part_shows_each_figure_beside_the_rivals_and_the_last_runs():
    assert section(PART, RUN, earlier()) == SECTION


def test_a_part_reports_what_disturbed_it():
    text = section(PART, replace(RUN, load=2.0, nice=19, rounds=1), None)
    assert "commit abc; one round. Processes that ran before it began: 2.0. Measured with nice 19.\n" in text


def test_a_part_that_failed_shows_what_it_had():
    text = section(PART, replace(RUN, failure="OSError: no more of it"), None)
    assert "\n\n**It ended early:** OSError: no more of it.\n\n| messages/s | bytes |" in text


def test_parts_without_an_axis_have_no_column_for_it():
    figures = (Figure("a node", None, "ours", "% of a core", 0.2, 0.2, 0.2, 5),)
    text = section(replace(PART, axis=""), replace(RUN, figures=figures), None)
    assert "| % of a core | ours |\n| --- | ---: |\n| a node | 0.2 |\n" in text


def test_the_file_has_the_machine_the_goals_and_the_parts_that_were_measured():
    goals = [
        Goal("64 B, one sender", "throughput", RATE, least=2),
        Goal("1 KiB, one sender", "throughput", RATE._replace(at=1024), least=2),
        Goal("idle", "idle", RATE, limit=1),
    ]
    parts = [PART, replace(PART, name="latency", title="Latency")]
    run = replace(RUN, missing={"etcd": "grpc not there; pip install grpcio"})
    text = render({"throughput": (run, earlier())}, ["throughput-messages-s.svg", "latency-us.svg"], parts, goals)
    assert "## Machine and versions\n\na machine, 2 cores.\n\nCorosync 3.1.7.\n\n- etcd is missing: grpc not" in text
    assert "| 64 B, one sender | 40,000 messages/s | 82,000 messages/s | 2.05 | 2 times | yes |\n" in text
    assert "| 1 KiB, one sender | 20,000 messages/s | ~~99 messages/s~~ | – | 2 times | does not count |\n" in text
    assert "| idle | – | – | – | at most 1 messages/s | not measured |\n" in text
    assert SECTION in text
    assert "\n![Throughput](plots/throughput-messages-s.svg)\n" in text
    assert "Latency" not in text
    assert "latency-us.svg" not in text


def test_plots_have_names_for_files():
    assert plot_name("nodes", "µs of CPU for a message") == "nodes-us-of-cpu-for-a-message.svg"
    assert plot_name("throughput", "messages/s") == "throughput-messages-s.svg"


def test_losses_are_what_became_worse_by_more_than_noise():
    assert losses([(RUN, earlier())]) == [
        "throughput: one sender, 64: ours: 102,500 → 82,000 messages/s",
        "throughput: one sender, 64: ours: 10 → 12.5 µs, p50",
    ]
    assert losses([(RUN, None)]) == []
