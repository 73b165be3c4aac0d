"""Numbers as people read them on a page: few digits, no noise."""

from __future__ import annotations

import math


def number_text(value: float | None) -> str:
    """Give at most four significant digits: `2,620`, `0.068`, `1.25e-07`; a dash for nothing, NaN as what it is."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    size = abs(value)
    # Beyond these a number is read by its power of ten, and no drawing or phone has room for its digits.
    if size >= 1e15:
        return f"{value:.4g}"
    if value == int(value):
        return f"{int(value):,}"
    if size >= 999.95:
        return f"{value:,.0f}"
    if size < 1e-3:
        return f"{value:.4g}"
    digits = max(0, 3 - math.floor(math.log10(size)))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def seconds_text(seconds: float) -> str:
    """Give a time: `20 µs`, `85 ms`, `4.2 s`, `3 min 20 s`, `5 h 07 min`, `2 d 03 h`."""
    # What rounds to a thousand of a unit is one of the next.
    if 0 < seconds < 0.9995e-4:
        return f"{1e6 * seconds:.3g} µs"
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"
