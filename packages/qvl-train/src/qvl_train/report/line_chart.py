"""Lines over steps as SVG: one drawing for desks, one for phones, because letters shrink with a drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from qvl_data.inspection.markup import Html, element

from qvl_train.report.axis import Axis, step_axis, value_axis
from qvl_train.report.numbers import number_text
from qvl_train.report.series import Series

_TOP, _RIGHT, _BOTTOM = 30, 16, 46
# Of a label's letter, in the drawing's units; labels with less than the second between them run together.
_LETTER, _APART = 8, 12
# (width, height, labels of steps, class); the classes are those of every page.
_PHONE = (360, 250, 4, "narrow")
_WHOLE, _HALF = (1040, 280, 10, "wide"), (520, 270, 6, "wide")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named series and how it is drawn; `colour` is the number of a colour of the page."""

    name: str
    series: Series
    colour: int
    style: Literal["line", "faint", "points", "dashed", "broad"] = "line"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Drawings of some lines, and what a script of the page needs to read values off them."""

    html: Html
    reading: dict[str, Any]


def line_chart(
    id_: str,
    lines: Sequence[Line],
    *,
    unit: str,
    may_be_log: bool = False,
    from_zero: bool = False,
    marks: Sequence[tuple[int, str]] = (),
    is_half: bool = False,
) -> Chart | None:
    """Draw lines with one axis of steps and one of `unit`; None where there is no value. `marks` are named steps.

    A chart that `is_half` is drawn for half of a desk's width.
    """
    lines = [line for line in lines if len(line.series)]
    if not lines:
        return None
    axis = value_axis([line.series.values for line in lines], may_be_log=may_be_log, from_zero=from_zero)
    first = min(int(line.series.steps[0]) for line in lines)
    last = max(int(line.series.steps[-1]) for line in lines)
    label = f"{unit} over steps {first:,} to {last:,}: {', '.join(dict.fromkeys(line.name for line in lines))}"
    drawings = [
        _drawing(lines, axis, (first, last), size=size, unit=unit, marks=marks, label=label)
        for size in (_HALF if is_half else _WHOLE, _PHONE)
    ]
    reading = {
        "first": first,
        "last": max(last, first + 1),
        "left": [_left(axis), _left(axis)],
        "lines": [_read(line) for line in lines if line.style != "faint"],
    }
    figure = element(
        "figure",
        *drawings,
        element("p", _legend(lines), class_="legend"),
        element("output", "", class_="reading"),
        *_beyond(lines, axis),
        data_chart=id_,
        class_="lines",
    )
    return Chart(html=figure, reading=reading)


def _drawing(
    lines: Sequence[Line],
    axis: Axis,
    steps: tuple[int, int],
    *,
    size: tuple[int, int, int, str],
    unit: str,
    marks: Sequence[tuple[int, str]],
    label: str,
) -> Html:
    width, height, labels, class_ = size
    left = _left(axis)
    across = step_axis(*steps, labels=_labels(steps[1], labels, width - left - _RIGHT))
    place = _Place(axis=axis, across=across, left=left, width=width, height=height)
    return element(
        "svg",
        *_rows(place, unit + (", log scale" if axis.is_log else "")),
        *_columns(place),
        *(_mark(place, step, text) for step, text in marks if steps[0] <= step <= steps[1]),
        *(part for line in lines for part in _drawn(line, place)),
        element("line", x1=-9, x2=-9, y1=_TOP, y2=place.bottom, class_="cursor"),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=label,
        class_=f"chart {class_}",
    )


def _left(axis: Axis) -> int:
    return 18 + _LETTER * max(len(number_text(label)) for label in axis.labels)


def _labels(last: int, wanted: int, wide: int) -> int:
    """Give how many labels of steps there is room for; the last one may be moved by half of itself."""
    own = _LETTER * len(f"{last:,}")
    return max(1, min(wanted, int(wide / (1.5 * own + _APART))))


class _Place:
    """Steps and values to places in a drawing."""

    def __init__(self, *, axis: Axis, across: Axis, left: int, width: int, height: int) -> None:
        self.axis, self.across = axis, across
        self.left, self.right, self.bottom, self.width = left, width - _RIGHT, height - _BOTTOM, width

    def x(self, steps: Sequence[float] | NDArray[np.int64]) -> NDArray[np.float64]:
        part = self.across.place(np.asarray(steps, np.float64))
        return np.round(self.left + (self.right - self.left) * part, 1)

    def y(self, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        part = self.axis.place(np.asarray(values, np.float64))
        return np.round(self.bottom - (self.bottom - _TOP) * part, 1)


def _rows(place: _Place, unit: str) -> Iterator[Html]:
    for number, label in enumerate(place.axis.labels):
        y = float(place.y([label])[0])
        yield element("line", x1=place.left, x2=place.right, y1=y, y2=y, class_="grid" if number else "axis")
        yield element("text", number_text(label), x=place.left - 8, y=y + 4.5, text_anchor="end")
    yield element("text", unit, x=0, y=_TOP - 14)


def _columns(place: _Place) -> Iterator[Html]:
    for label in place.across.labels:
        x = float(place.x([label])[0])
        yield element("line", x1=x, x2=x, y1=place.bottom, y2=place.bottom + 5, class_="axis")
        text = f"{int(label):,}"
        # One that is wider than the margin would be cut off at the edge of the drawing.
        middle = min(x, place.width - _LETTER * len(text) / 2)
        yield element("text", text, x=middle, y=place.bottom + 20, text_anchor="middle")
    yield element("text", "step", x=(place.left + place.right) / 2, y=place.bottom + 40, text_anchor="middle")


def _mark(place: _Place, step: int, text: str) -> Html:
    x = float(place.x([step])[0])
    line = element("line", x1=x, x2=x, y1=_TOP, y2=place.bottom, class_="mark")
    return element("g", element("title", f"step {step:,}: {text}"), line)


def _drawn(line: Line, place: _Place) -> Iterator[Html]:
    colour = f"c{line.colour}"
    if line.style == "points":
        x, y = place.x(line.series.steps), place.y(line.series.values)
        yield element("path", d=_path(x, y), class_=f"stroke thin {colour}")
        shown = line.series.thinned(300)
        for step, value, cx, cy in zip(
            shown.steps, shown.values, place.x(shown.steps), place.y(shown.values), strict=True
        ):
            title = element("title", f"step {int(step):,}: {line.name} {number_text(float(value))}")
            yield element("circle", title, cx=float(cx), cy=float(cy), r=4, class_=f"dot {colour}")
        return
    for shown in line.series.drawn():
        x, y = place.x(shown.steps), place.y(shown.values)
        if len(shown) == 1:
            yield element("circle", cx=float(x[0]), cy=float(y[0]), r=3, class_=f"dot {colour} {line.style}")
        else:
            yield element("path", d=_path(x, y), class_=f"stroke {line.style} {colour}")


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    points = [f"{float(a):g} {float(b):g}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(points)


def _legend(lines: Sequence[Line]) -> list[Html]:
    names: dict[str, Line] = {}
    for line in lines:
        names.setdefault(line.name, line)
    return [
        element("span", element("span", class_=f"key {line.style} c{line.colour}"), line.name)
        for line in names.values()
    ]


def _beyond(lines: Sequence[Line], axis: Axis) -> Iterator[Html]:
    # The values themselves, where there is a smoothed line too.
    lines = [line for line in lines if line.style == "faint"] or lines
    count = sum(int((line.series.values > axis.high).sum()) for line in lines)
    if count:
        highest = max(float(line.series.values.max()) for line in lines)
        values = "1 value lies" if count == 1 else f"{count:,} values lie"
        yield element("p", f"{values} above the drawing, the highest at {number_text(highest)}.", class_="soft small")


def _read(line: Line) -> dict[str, Any]:
    shown = line.series.thinned()
    return {
        "name": line.name,
        "steps": [int(step) for step in shown.steps],
        "values": [number_text(float(value)) for value in shown.values],
    }
