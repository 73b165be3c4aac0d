"""A histogram of lengths as SVG: axes, labels, the limit, and each bin's numbers where a pointer rests on it."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_data.inspection.histogram import round_width
from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.report import Histogram

_TOP, _RIGHT, _BOTTOM = 26, 14, 44


def histogram_svg(histogram: Histogram, *, width: int, height: int, x_ticks: int, class_: str) -> Html:
    """Give the drawing, `width` x `height` CSS pixels at full size, with about `x_ticks` labels under it."""
    most = max(used + dropped for used, dropped in zip(histogram.used, histogram.dropped, strict=True))
    step = round_width(most / 4)
    scale = _Scale(
        left=22 + 8 * len(f"{most:,}"),
        width=width,
        height=height,
        last=histogram.edges[-1],
        most=step * -(-most // step),
    )
    label = f"Histogram of sample lengths in tokens; the limit is {histogram.limit:,}"
    return element(
        "svg",
        *_rows(scale, step),
        *_bars(histogram, scale),
        *_columns(histogram, scale, round_width(scale.last / x_ticks)),
        *_limit(histogram, scale),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=label,
        class_=f"chart {class_}",
    )


class _Scale:
    """Tokens and samples to places in the drawing."""

    def __init__(self, *, left: int, width: int, height: int, last: int, most: int) -> None:
        self.left, self.right, self.bottom = left, width - _RIGHT, height - _BOTTOM
        self.last, self.most = last, most

    def x(self, tokens: float) -> float:
        return round(self.left + (self.right - self.left) * tokens / self.last, 1)

    def y(self, samples: float) -> float:
        return round(self.bottom - (self.bottom - _TOP) * samples / self.most, 1)


def _rows(scale: _Scale, step: int) -> Iterator[Html]:
    for samples in range(0, scale.most + 1, step):
        y = scale.y(samples)
        name = "grid" if samples else "axis"
        yield element("line", x1=scale.left, x2=scale.right, y1=y, y2=y, class_=name)
        yield element("text", f"{samples:,}", x=scale.left - 8, y=y + 4.5, text_anchor="end")
    yield element("text", "samples", x=0, y=_TOP - 12)


def _bars(histogram: Histogram, scale: _Scale) -> Iterator[Html]:
    for place, (used, dropped) in enumerate(zip(histogram.used, histogram.dropped, strict=True)):
        if not used + dropped:
            continue
        first, after = histogram.edges[place], histogram.edges[place + 1]
        is_open = histogram.is_open and place + 1 == len(histogram.used)
        name = f"{first:,} and more" if is_open else f"{first:,} to {after - 1:,}"
        text = f"{name} tokens: {used:,} used" + (f", {dropped:,} dropped" if dropped else "")
        x, wide = scale.x(first), max(1.0, round(scale.x(after) - scale.x(first) - 1.5, 1))
        parts = [_bar(x, scale.y(used), wide, scale.bottom, "used")] if used else []
        if dropped:
            parts.append(_bar(x, scale.y(used + dropped), wide, scale.y(used), "lost"))
        yield element("g", element("title", text), *parts)


def _bar(x: float, top: float, wide: float, bottom: float, name: str) -> Html:
    # One sample among a million is still a line.
    height = max(1.5, round(bottom - top, 1))
    return element("rect", x=x, y=round(bottom - height, 1), width=wide, height=height, class_=name)


def _columns(histogram: Histogram, scale: _Scale, step: int) -> Iterator[Html]:
    for tokens in range(0, scale.last + 1, step):
        x = scale.x(tokens)
        yield element("line", x1=x, x2=x, y1=scale.bottom, y2=scale.bottom + 5, class_="axis")
        yield element("text", f"{tokens:,}", x=x, y=scale.bottom + 19, text_anchor="middle")
    name = "tokens per sample" + (", the last bin and more" if histogram.is_open else "")
    yield element("text", name, x=(scale.left + scale.right) / 2, y=scale.bottom + 38, text_anchor="middle")


def _limit(histogram: Histogram, scale: _Scale) -> Iterator[Html]:
    text = f"sequence_length {histogram.limit:,}"
    if histogram.limit > scale.last:
        yield element("text", f"{text} →", x=scale.right, y=_TOP - 12, text_anchor="end", class_="limit-text")
        return
    x = scale.x(histogram.limit)
    yield element("line", x1=x, x2=x, y1=_TOP - 8, y2=scale.bottom, class_="limit")
    is_left = x < (scale.left + scale.right) / 2
    place = x + 6 if is_left else x - 6
    yield element("text", text, x=place, y=_TOP - 12, text_anchor="start" if is_left else "end", class_="limit-text")
