"""Write the tables of docs/plan.md and docs/scale.md from the planner and from what was measured.

    python benchmarks/planning/pages.py [--check]

A table stands between `<!-- table NAME -->` and `<!-- end of table -->`. Measured memory comes from measured.json,
which `memory.py --write` writes; all else is worked out. `--check` writes nothing and fails where a page would change.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from figures import ROOT, SIZES, scale, sizes
from memory import CASES, MEASURED, planned_bytes
from published import compare, compare_speed
from qvl_core.planner.job import MEGATRON
from qvl_core.planner.report import stages_text

PAGES = ("plan.md", "scale.md")
_PLACE = re.compile(r"(<!-- table (?P<name>[a-z ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_SCALE_HEAD = (
    *("devices", "batch", "tp / pp / dp", "micro batch", "GiB", "s/step", "tokens/s", "MFU", "bubble", "bottleneck"),
)


def main() -> None:
    """Write or check both pages."""
    stale = []
    for name, text in written().items():
        path = ROOT / "docs" / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"tables are not as they would be: {', '.join(stale)}; python benchmarks/planning/pages.py")


def written() -> dict[str, str]:
    """Give both pages with their tables made anew. Exits where a page names a table that there is none of."""
    found = tables()
    pages = {}
    used: set[str] = set()
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        used |= {match["name"] for match in _PLACE.finditer(text)}
        unknown = used - set(found)
        if unknown:
            sys.exit(f"docs/{page}: there is no table {', '.join(sorted(unknown))}")
        pages[page] = _PLACE.sub(lambda match: f"{match[1]}\n{found[match['name']]}\n\n{match[3]}", text)
    if used != set(found):
        sys.exit(f"no page has a place for {', '.join(sorted(set(found) - used))}")
    return pages


def tables() -> dict[str, str]:
    """Give all tables by name, as Markdown."""
    curves = scale()
    return {
        "measured": _table(("model and micro batch", "measured MB", "planned MB", "error"), measured()),
        "published": _table(("point", "published GiB", "account GiB", "error", "settings"), published()),
        "speed": _table(("point", "published", "fitted", "error", "settings"), speeds()),
        "sizes": _table(
            ("model, devices", "plan", "tp / pp / dp", "vision", "text", "recompute", "micro batch", "GiB", "s/step",
             "bubble", "faster"),
            layouts(sizes()),
        ),
        "sizes in megatron": _table(
            ("model, devices", "same degrees, our stage lists", "best"),
            (
                (f"{name.split('_')[0].upper()}, {one['devices']}", _faster(one["our_split_is_faster_by"]),
                 _faster(one["best_is_faster_by"]))
                for name, one in sizes(MEGATRON).items()
            ),
        ),
        "same batch": _table(_SCALE_HEAD, map(_scaled, curves["batch of 384"])),
        "growing batch": _table(_SCALE_HEAD, map(_scaled, curves["6 samples a device"])),
        "adapters": _table(_SCALE_HEAD, map(_scaled, curves["adapters, 6 samples a device"])),
    }  # fmt: skip


def measured() -> Iterator[tuple[str, ...]]:
    """Give what was measured on CPU beside the plan."""
    found = json.loads(MEASURED.read_text(encoding="utf-8"))["cases"]
    for name, case in CASES.items():
        planned, megabytes = planned_bytes(case) / 1e6, found[name]["measured_mb"]
        images = f", images of {case['patches_side']} x {case['patches_side']} patches" if case["patches_side"] else ""
        about = f"{name}: {case['sequences']} of {case['tokens']} tokens{images}"
        yield about, f"{megabytes:.0f}", f"{planned:.0f}", f"{100 * (planned / megabytes - 1):+.0f} %"


def published() -> Iterator[tuple[str, ...]]:
    """Give published memory beside the account of the engine that it was published for."""
    for row in compare():
        others = [
            f"at {key.split('at ')[1]} {value:.1f}" for key, value in row.items() if key.startswith("planned_gib at")
        ]
        assumed = row["assumed"] + (f" ({', '.join(others)} GiB)" if others else "")
        yield (row["point"], f"{row['published_gib']:.2f}", f"{row['planned_gib']:.1f}",
               f"{100 * row['error']:+.1f} %", assumed)  # fmt: skip


def speeds() -> Iterator[tuple[str, ...]]:
    """Give published speed, to which the time of starting an operation was fitted."""
    for row in compare_speed():
        yield (row["point"], f"{row['published_samples_per_s']:.2f}", f"{row['planned_samples_per_s']:.1f}",
               f"{100 * row['error']:+.0f} %", row["assumed"])  # fmt: skip


def layouts(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Give the reference's layout, our stage lists for it, and the best of all, for every size."""
    for name in SIZES:
        one = found[name]
        faster = {"same degrees, our split": "our_split_is_faster_by", "best": "best_is_faster_by"}
        for kind in ("reference", *faster):
            plan = one[kind]
            recompute = plan["layout"]["recompute"]
            yield (
                f"{name.split('_')[0].upper()}, {one['devices']}", kind.replace(", our split", ""), *_degrees(plan),
                stages_text(plan["layout"]["vision_stages"]), stages_text(plan["layout"]["text_stages"]),
                recompute if isinstance(recompute, str) else " ".join(recompute), str(plan["micro_batch"]),
                f"{plan['memory_gib']:.1f}", f"{plan['step_s']:.2f}", f"{plan['bubble']:.1%}",
                _faster(one[faster[kind]]) if kind in faster else "",
            )  # fmt: skip


def _scaled(one: dict[str, Any]) -> tuple[str, ...]:
    start = (f"{one['devices']:,}", f"{one['global_batch']:,}")
    if "layout" not in one:
        return *start, f"nothing fits: {one['least_gib']} GiB at least, or {one['fewest']} devices", *[""] * 7
    return (
        *start, *_degrees(one), str(one["micro_batch"]), f"{one['memory_gib']:.1f}", f"{one['step_s']:.2f}",
        f"{one['tokens_per_s']:,.0f}", f"{one['mfu']:.1%}", f"{one['bubble']:.1%}", one["bottleneck"],
    )  # fmt: skip


def _degrees(plan: dict[str, Any]) -> tuple[str]:
    layout = plan["layout"]
    return (f"{layout['tp']} / {layout['pp']} / {layout['dp']}",)


def _faster(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|" for cells in lines)


if __name__ == "__main__":
    main()
