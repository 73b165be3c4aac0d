"""Where the time of the steps went: shares of a run as a bar with its table, and how they changed over the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qvl_data.inspection.markup import Child, Html, element
from qvl_data.inspection.page import table

from qvl_train.meter import PARTS
from qvl_train.report.numbers import number_text, seconds_text
from qvl_train.report.run_history import RunHistory
from qvl_train.report.series import Series
from qvl_train.time_table import NAMES

STEP_TIME = "step_time_s"
REST = "not split"
# Between the steps: validations, evaluations, saves; they are no part of a step's time.
_BETWEEN = {
    "validation": ("validation_s",),
    "evaluation": ("eval_s",),
    "saving (the steps stood still)": ("save_copy_s", "save_wait_s"),
}
_BINS = 60
_SMALLEST = 0.0005


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the steps' time: its name, its mean in seconds for each bin of steps, and its place in the order."""

    name: str
    mean_s: float
    total_s: float
    bins: NDArray[np.float64]
    colour: int


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """The parts of a run's steps, and what came between them.

    Totals are of all steps: a row stands for those since the row before it. `edges` are steps, one more than there are
    bins: a bin is of the steps after its first edge, to its second one.
    """

    step_s: float
    total_s: float
    parts: tuple[Part, ...]
    between: tuple[tuple[str, float], ...]
    edges: NDArray[np.int64]


def part_name(key: str) -> str:
    """Give the name of a part, as the table at the end of a run has it."""
    return NAMES.get(key, key.removesuffix("_s"))


def time_split(run: RunHistory) -> TimeSplit | None:
    """Split the steps that have numbers; None without any. What an older version did not split is a part of its own."""
    steps, times = run.metrics.series(STEP_TIME)
    if not len(steps):
        return None
    # A row of step 0 is one of a foreign file, and stands for itself.
    counts = np.maximum(1, Series(steps=steps, values=times).stands_for())
    edges = np.linspace(0, len(steps), min(_BINS, len(steps)) + 1).astype(np.int64)
    found: list[tuple[str, int, NDArray[np.float64]]] = []
    rest = times.copy()
    for colour, key in enumerate(PARTS):
        values = _at(steps, *run.metrics.series(key))
        rest -= values
        found.append((part_name(key), colour, values))
    if rest.sum() > 0.01 * times.sum():
        found.append((REST, len(PARTS), np.maximum(rest, 0)))
    parts = tuple(
        Part(
            name=name,
            mean_s=float(values @ counts / counts.sum()),
            total_s=float(values @ counts),
            bins=np.add.reduceat(values * counts, edges[:-1]) / np.add.reduceat(counts, edges[:-1]),
            colour=colour,
        )
        for name, colour, values in found
        if values.sum() > _SMALLEST * times.sum()
    )
    return TimeSplit(
        step_s=float(times @ counts / counts.sum()),
        total_s=float(times @ counts),
        parts=parts,
        between=tuple(_between(run)),
        edges=np.append(steps[0] - counts[0], steps[edges[1:] - 1]),
    )


def split_bar(split: TimeSplit) -> Html:
    """Draw the shares of the steps' mean time in one bar."""
    rects, left = [], 0.0
    for part in split.parts:
        wide = 100 * part.mean_s / max(1e-12, split.step_s)
        title = element("title", f"{part.name}: {seconds_text(part.mean_s)} of a step, {wide:.1f} %")
        rects.append(
            element("rect", title, x=round(left, 2), y=0, width=round(wide, 2), height=10, class_=_colour(part))
        )
        left += wide
    label = ", ".join(f"{part.name} {100 * part.mean_s / max(1e-12, split.step_s):.0f} %" for part in split.parts)
    return element(
        "svg",
        *rects,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="split-bar",
    )


def split_table(split: TimeSplit) -> Html:
    """Give the parts with their totals, shares and means of a step; then what came between the steps."""
    whole = max(1e-12, split.total_s + sum(seconds for _, seconds in split.between))
    rows: list[tuple[Child, ...]] = [
        (
            element("span", element("span", class_=f"key {_colour(part)}"), part.name),
            seconds_text(part.total_s),
            f"{100 * part.total_s / whole:.1f} %",
            seconds_text(part.mean_s),
        )
        for part in split.parts
    ]
    rows += [(name, seconds_text(total), f"{100 * total / whole:.1f} %", "–") for name, total in split.between]
    columns = ("where the time went", "total", "share", "mean of a step")
    return table(columns, rows, right=columns[1:])


def split_area(split: TimeSplit) -> Iterator[Html]:
    """Draw how the mean of each part changed over the steps, stacked, for desks and phones."""
    if len(split.edges) < 3:
        return
    for width, height, class_ in ((1040, 220, "wide"), (360, 200, "narrow")):
        yield _area(split, width, height, class_)


def compared_table(runs: Sequence[tuple[str, TimeSplit]]) -> Html:
    """Give the mean of each part side by side, with the difference of two."""
    names = list(dict.fromkeys(part.name for _, split in runs for part in split.parts))
    rows = []
    for name in [*names, "step"]:
        values = [_mean(split, name) for _, split in runs]
        rows.append([name, *(seconds_text(v) if v else "–" for v in values), *_change(values)])
    columns = ["mean of a step", *(name for name, _ in runs), *(["change"] if len(runs) == 2 else [])]
    return table(columns, rows, right=columns[1:])


def _mean(split: TimeSplit, name: str) -> float:
    if name == "step":
        return split.step_s
    return next((part.mean_s for part in split.parts if part.name == name), 0.0)


def _change(values: Sequence[float]) -> list[str]:
    if len(values) != 2:
        return []
    before, after = values
    if not (before and after):
        return ["–"]
    factor = after / before
    return [f"{factor:,.3g} times" if factor > 3 else f"{100 * (factor - 1):+.1f} %"]


def _area(split: TimeSplit, width: int, height: int, class_: str) -> Html:
    left, top, bottom, right = 44, 30, height - 30, width - 16
    count = len(split.edges) - 1
    most = max(1e-12, *(float(sum(part.bins[at] for part in split.parts)) for at in range(count)))
    first, last = int(split.edges[0]), int(split.edges[-1])

    def x(step: float) -> float:
        return round(left + (right - left) * (step - first) / max(1, last - first), 1)

    below = np.zeros(count)
    shapes = []
    for part in split.parts:
        above = below + part.bins
        points = []
        for at in range(count):
            y = round(bottom - (bottom - top) * float(above[at]) / most, 1)
            points += [f"{x(float(split.edges[at])):g} {y:g}", f"{x(float(split.edges[at + 1])):g} {y:g}"]
        for at in reversed(range(count)):
            y = round(bottom - (bottom - top) * float(below[at]) / most, 1)
            points += [f"{x(float(split.edges[at + 1])):g} {y:g}", f"{x(float(split.edges[at])):g} {y:g}"]
        shapes.append(element("path", element("title", part.name), d=f"M{'L'.join(points)}Z", class_=_colour(part)))
        below = above
    return element(
        "svg",
        element("text", f"seconds of a step, up to {number_text(most)}", x=0, y=top - 14),
        *shapes,
        element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        element("text", f"step {first + 1:,}", x=left, y=bottom + 20),
        element("text", f"step {last:,}", x=right, y=bottom + 20, text_anchor="end"),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label="the parts of a step's time over the steps",
        class_=f"chart {class_}",
    )


def _at(wanted: NDArray[np.int64], steps: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the values at the wanted steps, 0 where there is none."""
    found = np.zeros(len(wanted))
    _, ours, theirs = np.intersect1d(wanted, steps, assume_unique=True, return_indices=True)
    found[ours] = values[theirs]
    return found


def _between(run: RunHistory) -> Iterator[tuple[str, float]]:
    for name, keys in _BETWEEN.items():
        total = sum(float(run.metrics.series(key)[1].sum()) for key in keys)
        if total > 0:
            yield name, total


def _colour(part: Part) -> str:
    return f"p{part.colour}"
