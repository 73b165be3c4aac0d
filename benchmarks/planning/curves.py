"""Draw docs/img/scale_speed.svg and docs/img/scale_time.svg: 72B from 16 to 1,024 devices, by arithmetic.

    python benchmarks/planning/curves.py [--check]

Writes the same bytes every time; `--check` writes nothing and fails where a file is not what would be written.
"""

from __future__ import annotations

import sys
from html import escape
from math import log2
from typing import Any

from figures import COUNTS, ROOT, scale

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 16, 44, 72
# Okabe and Ito's colours: told apart with any colour vision, on light and dark.
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.grid{stroke:#8884;stroke-width:1}.back{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.back{fill:#0d1117}}"
)


def main() -> None:
    """Write or check both files."""
    curves = scale()
    pictures = {"scale_speed.svg": speed(curves), "scale_time.svg": time_split(curves["6 samples a device"])}
    stale = []
    for name, text in pictures.items():
        path = ROOT / "docs" / "img" / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"not as they would be drawn: {', '.join(stale)}; python benchmarks/planning/curves.py")


def speed(curves: dict[str, list[dict[str, Any]]]) -> str:
    """Draw tokens a second and device over the number of devices, a curve for each way to scale."""
    lines = {
        name: [(one["devices"], one["tokens_per_s"] / one["devices"]) for one in points if "tokens_per_s" in one]
        for name, points in curves.items()
    }
    most = 400.0
    parts = [*_frame("Tokens a second and device, Qwen2.5-VL-72B", most, 100, "{:.0f}")]
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        path = " ".join(f"{_x(count):.1f},{_y(value, most):.1f}" for count, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [
            f'<circle cx="{_x(count):.1f}" cy="{_y(value, most):.1f}" r="4" fill="{colour}">'
            f"<title>{escape(name)}, {count} devices: {value:.0f}</title></circle>"
            for count, value in points
        ]
    return _svg(parts, list(lines), "Throughput of each device falls as devices are added to the same batch.")


def time_split(points: list[dict[str, Any]]) -> str:
    """Draw what a step's time goes to on the slowest stage, a bar for each number of devices."""
    names = list(next(one for one in points if "shares" in one)["shares"])
    parts = [*_frame("What a step goes to, 6 samples a device, text trained", 1.0, 0.2, "{:.0%}")]
    for one in points:
        left, base = _x(one["devices"]) - 24, 0.0
        if "shares" not in one:
            parts.append(
                f'<text x="{left + 24:.1f}" y="{HEIGHT - BOTTOM - 8}" text-anchor="middle">does not fit</text>'
            )
            continue
        for colour, name in zip(COLOURS, names, strict=True):
            share = one["shares"][name]
            top, height = _y(base + share, 1.0), _y(base, 1.0) - _y(base + share, 1.0)
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="48" height="{height:.1f}" fill="{colour}">'
                f"<title>{escape(name)}: {share:.0%}</title></rect>"
            )
            base += share
    short = [name.replace("communication in the stage and with its neighbours", "tensor and stages") for name in names]
    short = [name.replace("gradients and weights over the replicas", "replicas") for name in short]
    short = [name.replace("starting operations", "starting") for name in short]
    return _svg(parts, short, "Share of compute, communication and idle time of a step for each number of devices.")


def _frame(title: str, most: float, step: float, form: str) -> list[str]:
    parts = [f'<text x="{LEFT}" y="24" font-weight="bold">{escape(title)}</text>']
    for i in range(round(most / step) + 1):
        y = _y(i * step, most)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{form.format(i * step)}</text>')
    for count in COUNTS:
        parts.append(f'<text x="{_x(count):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{count:,}</text>')
    return [*parts, f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 36}" text-anchor="end">devices</text>']


def _svg(parts: list[str], legend: list[str], description: str) -> str:
    x, keys = float(LEFT), []
    for colour, name in zip(COLOURS, legend, strict=False):
        keys.append(f'<rect x="{x:.1f}" y="{HEIGHT - 22}" width="12" height="12" fill="{colour}"/>')
        keys.append(f'<text x="{x + 17:.1f}" y="{HEIGHT - 11}">{escape(name)}</text>')
        x += 34 + 7.0 * len(name)
    body = "\n".join([*parts, *keys])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
        f"<desc>{escape(description)}</desc>\n<style>{STYLE}</style>\n"
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>\n{body}\n</svg>\n'
    )


def _x(count: int) -> float:
    first, last = log2(COUNTS[0]), log2(COUNTS[-1])
    return LEFT + 40 + (log2(count) - first) / (last - first) * (WIDTH - LEFT - RIGHT - 80)


def _y(value: float, most: float) -> float:
    return HEIGHT - BOTTOM - value / most * (HEIGHT - TOP - BOTTOM)


if __name__ == "__main__":
    main()
