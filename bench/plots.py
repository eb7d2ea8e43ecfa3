"""Plots of the parts that have an axis: one for each unit, a line for each system and kind of run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.history import Run
from bench.parts import Part
from bench.report import plot_name

STYLES = ("-", "--", ":", "-.")
LOG_FROM = 30
"""Axes that reach over more than this factor are logarithmic."""


def missing() -> str:
    """What is missing, and how it comes; empty if nothing is."""
    return "" if find_spec("matplotlib") else "pip install matplotlib"


def draw(folder: Path, part: Part, run: Run) -> list[str]:
    """Draw a part's figures that count into a folder; return the names of the files."""
    import matplotlib  # noqa: PLC0415  # may be missing

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # so that equal figures give equal files
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for unit in dict.fromkeys(figure.unit for figure in run.figures):
        figures = [figure for figure in run.figures if figure.unit == unit and not figure.flaw]
        if len({figure.at for figure in figures}) > 1:
            drawn.append(plot_name(part.name, unit))
            _draw(folder / drawn[-1], part, unit, figures)
    return drawn


def _draw(file: Path, part: Part, unit: str, figures: list[Figure]) -> None:
    from matplotlib import pyplot  # noqa: PLC0415  # may be missing

    canvas, axes = pyplot.subplots(figsize=(9.5, 4.2), layout="constrained")
    systems = list(dict.fromkeys(figure.system for figure in figures))
    kinds = list(dict.fromkeys(figure.what for figure in figures))
    for system in systems:
        for kind in kinds:
            line = sorted(
                (figure.at, figure.value, figure.low, figure.high)
                for figure in figures
                if (figure.system, figure.what) == (system, kind) and figure.at is not None
            )
            if line:
                _add_line(axes, line, f"{system}, {kind}", f"C{systems.index(system)}", STYLES[kinds.index(kind) % 4])
    places = sorted({figure.at for figure in figures if figure.at is not None})
    if places[0] > 0 and places[-1] / places[0] >= LOG_FROM / 2:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:,.0f}" for place in places])
    axes.minorticks_off()
    values = [figure.value for figure in figures]
    if min(values) > 0 and max(values) / min(values) > LOG_FROM:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel=part.axis, ylabel=unit, title=part.title)
    axes.grid(alpha=0.3)
    canvas.legend(loc="outside right upper", fontsize="small")
    canvas.savefig(file, metadata={"Date": None})
    pyplot.close(canvas)


def _add_line(axes: Any, line: list[tuple[float, float, float, float]], label: str, color: str, style: str) -> None:
    places, values, lows, highs = zip(*line, strict=True)
    axes.plot(places, values, style, color=color, marker="o", markersize=4, label=label)
    axes.fill_between(places, lows, highs, color=color, alpha=0.12, linewidth=0)
