"""RESULTS.md: all figures as tables, each beside the last run's, and the goals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from bench.figures import Figure, Key, change, number, percent
from bench.goals import GOALS, Goal, Score, score
from bench.history import Run
from bench.parts import PARTS, Part

INTRODUCTION = """\
# Results

`make bench` measures, and writes this file; `python -m bench --only PART,...` measures parts of it. All that stands in
one table was measured in one run, in turns, on one machine: read the ratios. Each figure is the median of its rounds.

In brackets: how many times the first column's. In italics: the change since the last run on this machine; in bold where
it is more than noise (the rounds of both runs do not overlap, and the medians differ by more than a tenth). A figure in
~~strokes~~ does not count: in some of its runs the membership changed, or the orders differed; below stands which.
"""
Runs = Mapping[str, tuple[Run, Run | None]]
"""Of each part the last run, and the one before on the same machine."""


def render(runs: Runs, plots: Iterable[str], parts: Sequence[Part] = PARTS, goals: Sequence[Goal] = GOALS) -> str:
    """Write the whole file. `plots`: names of files in the folder `plots`, that begin with those of their parts."""
    shown = [part for part in parts if part.name in runs]
    sections = [INTRODUCTION, _machine([run for run, _ in runs.values()]), _goals(runs, goals)]
    for part in shown:
        drawn = "".join(f"\n![{part.title}](plots/{name})\n" for name in plots if name.startswith(part.name + "-"))
        sections.append(section(part, *runs[part.name]) + drawn)
    return "\n".join(sections)


def plot_name(part: str, unit: str) -> str:
    """The file of a plot."""
    return f"{part}-{re.sub(r'[^a-z0-9]+', '-', unit.lower().replace('µ', 'u')).strip('-')}.svg"


def _machine(runs: Sequence[Run]) -> str:
    last = max(runs, key=lambda run: run.at)
    missing = {name: why for run in runs for name, why in run.missing.items()}
    versions = ", ".join(f"{name} {version}" for name, version in last.versions.items())
    lines = ["## Machine and versions", "", f"{last.machine}.", "", f"{versions}.", ""]
    lines += [f"- {name} is missing: {why}" for name, why in missing.items()]
    return "\n".join(lines)


def _goals(runs: Runs, goals: Sequence[Goal]) -> str:
    found = {(name, figure.key): figure for name, (run, _) in runs.items() for figure in run.figures}
    rows: list[Sequence[str]] = [("what", "rival here", "ours", "ratio", "goal", "reached")]
    rows += [_goal_row(one) for one in score(goals, found)]
    return f"## What it must show\n\n{_table(rows)}"


def _goal_row(one: Score) -> tuple[str, ...]:
    share = f" ({percent(one.share)} of that without loss)" if one.share is not None else ""
    ratio = number(one.ratio) if one.ratio is not None else "–"
    ours = _value(one.ours) + share
    return (one.goal.what, _value(one.rival), ours, ratio, one.goal.text(), one.verdict)


def _value(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    text = f"{number(figure.value)} {figure.unit.partition(',')[0]}"
    return f"~~{text}~~" if figure.flaw else text


def section(part: Part, run: Run, before: Run | None) -> str:
    """Write a part: its figures, a table for each unit."""
    when = f"{_day(run)}, commit {run.commit or 'unknown'}; {_medians(run)}"
    when += f", beside the run of {_day(before)}, commit {before.commit or 'unknown'}" if before else ""
    quiet = f" Processes that ran before it began: {run.load:.1f}." if run.load >= 0.5 else ""
    quiet += f" Measured with nice {run.nice}." if run.nice else ""
    quiet += f"\n\n**It ended early:** {run.failure}." if run.failure else ""
    head = f"## {part.title}\n\n{part.method}\n\n{when}.{quiet}\n"
    units = dict.fromkeys(figure.unit for figure in run.figures)
    return "\n".join([head, *(_unit_table(part, unit, run, before) for unit in units), *_flaws(run)])


def _day(run: Run) -> str:
    return f"{datetime.fromisoformat(run.at):%Y-%m-%d %H:%M}"


def _medians(run: Run) -> str:
    return f"medians of {run.rounds} rounds" if run.rounds > 1 else "one round"


def _unit_table(part: Part, unit: str, run: Run, before: Run | None) -> str:
    figures = {figure.key: figure for figure in run.figures if figure.unit == unit}
    earlier = {figure.key: figure for figure in before.figures} if before else {}
    systems = list(dict.fromkeys(key.system for key in figures))
    places = dict.fromkeys((key.what, key.at) for key in figures)
    axis = [part.axis] if part.axis else []
    rows = [(unit, *axis, *systems)]
    for what, at in places:
        line = [figures.get(key) for key in (Key(what, at, system, unit) for system in systems)]
        reference = line[0]
        cells = [_cell(one, reference, earlier.get(one.key)) if one else "" for one in line]
        rows.append((what, *([number(at)] if axis and at is not None else [""] * len(axis)), *cells))
    return _table(rows)


def _cell(figure: Figure, reference: Figure | None, before: Figure | None) -> str:
    if figure.flaw:
        return f"~~{number(figure.value)}~~"
    cell = number(figure.value)
    if reference is not None and figure is not reference and reference.value and not reference.flaw:
        cell += f" ({number(figure.value / reference.value)})"
    if changed := change(figure, before):
        text = ("+" if changed.ratio >= 1 else "−") + percent(abs(changed.ratio - 1))
        cell += f" **{text}**" if changed.sure else f" *{text}*"
    return cell


def _flaws(run: Run) -> list[str]:
    return [
        f"- Does not count: {figure.what}{f', {number(figure.at)}' if figure.at is not None else ''}, {figure.system},"
        f" {figure.unit}: {figure.flaw}.\n"
        for figure in run.figures
        if figure.flaw
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def losses(runs: Iterable[tuple[Run, Run | None]]) -> list[str]:
    """What has become worse by more than noise, a line for each."""
    found = []
    for run, before in runs:
        earlier = {figure.key: figure for figure in before.figures} if before else {}
        for figure in run.figures:
            was = earlier.get(figure.key)
            changed = change(figure, was)
            if was and changed and changed.sure and not changed.better:
                at = f", {number(figure.at)}" if figure.at is not None else ""
                place = f"{run.part}: {figure.what}{at}: {figure.system}"
                found.append(f"{place}: {number(was.value)} → {number(figure.value)} {figure.unit}")
    return found
