"""Write the pictures of docs/parallel.md from the code that they explain; `--check` only tells if they are up to date.

The mesh comes from `parallel.mesh`, the timelines from `parallel.clock`. SVG with light and dark colors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from qvl_core import load_recipe
from qvl_core.layout import Layout
from qvl_core.parallel.clock import StageTimes, Timeline, simulate
from qvl_core.parallel.mesh import Coordinate, group_of, rank_of
from qvl_core.parallel.stage_work import MicroBatch, stage_work

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "img"
# A photograph and what is asked about it: 1280 patches and 563 tokens, a third of the text an answer.
SAMPLE = MicroBatch(sequences=(563,), frames=(1280,), labels=81)
STYLE = """\
    text { font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 }
    .strong { font-weight: 600 }
    .small { font-size: 12px; fill: #59636e }
    .on { fill: #ffffff; font-size: 12px }
    .page { fill: #ffffff }
    .box { fill: #f6f8fa; stroke: #d1d9e0 }
    .frame { fill: none; stroke: #59636e; stroke-dasharray: 4 3 }
    .line { fill: none; stroke: #59636e; stroke-width: 1.5; marker-end: url(#head) }
    .head { fill: #59636e }
    .a { fill: #0969da }
    .b { fill: #bc4c00 }
    .n { fill: #6e7781 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .small { fill: #9198a1 }
      .on { fill: #ffffff }
      .page { fill: #0d1117 }
      .box { fill: #161b22; stroke: #30363d }
      .frame, .line { stroke: #9198a1 }
      .head { fill: #9198a1 }
      .a { fill: #1f6feb }
      .b { fill: #b34700 }
      .n { fill: #57606a }
    }"""
HEAD = """\
  <defs>
    <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
      <path class="head" d="M 0 0 L 8 4 L 0 8 z"/>
    </marker>
  </defs>"""


def main() -> int:
    """Write the files, or with `--check` exit 1 where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a picture is stale")
    check = parser.parse_args().check
    for name, text in pictures().items():
        path = FOLDER / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"docs/img/{name} is stale\n  fix: python tools/make_parallel_pictures.py")
            return 1
    print("docs/img: up to date")
    return 0


def pictures() -> dict[str, str]:
    """Give the text of every picture, by file name."""
    return {"mesh.svg": mesh(), "tensor_layer.svg": tensor_layer(), "one_f_one_b.svg": one_f_one_b()}


def mesh() -> str:
    """Draw tp = 2, dp = 2, pp = 4 on two machines, and the groups of one rank."""
    layout = Layout(tp=2, pp=4, dp=2, vision_stages=(1, 0, 0, 0), text_stages=(1, 1, 1, 1))
    place = Coordinate(pp=1, dp=0, tp=1)
    rank = rank_of(place, layout)
    tensor, data, pipeline = (group_of(rank, axis, layout) for axis in ("tp", "dp", "pp"))
    parts = [text("Sixteen ranks: tp = 2, dp = 2, pp = 4, on two machines of eight devices", 24, 36, "title")]
    for stage in range(layout.pp):
        parts.append(text(f"stage {stage}", 190 + 190 * stage, 70, "strong", middle=True))
    for replica in range(layout.dp):
        parts.append(text(f"replica {replica}", 24, 122 + 96 * replica, "strong"))
        for stage in range(layout.pp):
            left, top = 116 + 190 * stage, 86 + 96 * replica
            parts.append(f'<rect class="box" x="{left}" y="{top}" width="148" height="72" rx="4"/>')
            for slice_ in range(layout.tp):
                number = rank_of(Coordinate(pp=stage, dp=replica, tp=slice_), layout)
                kind = "a" if number == rank else "b" if number in {*tensor, *data, *pipeline} else "n"
                x = left + 12 + 64 * slice_
                parts.append(f'<rect class="{kind}" x="{x}" y="{top + 14}" width="58" height="44" rx="3"/>')
                parts.append(text(f"rank {number}", x + 29, top + 40, "on", middle=True))
            if stage:
                parts.append(f'<path class="line" d="M {left - 40} {top + 36} H {left - 4}"/>')
    for node in range(2):
        parts.append(f'<rect class="frame" x="{104 + 380 * node}" y="52" width="362" height="222" rx="6"/>')
        parts.append(text(f"machine {node}", 285 + 380 * node, 292, "small", middle=True))
    notes = (
        f"rank {rank}: slice {place.tp} of stage {place.pp} of replica {place.dp}",
        f"tensor group {listed(tensor)}: sums inside every layer, the most traffic, neighbours on one machine",
        f"data group {listed(data)}: gradients, once a step",
        f"pipeline group {listed(pipeline)}: activations to the next stage, gradients to the one before",
    )
    for line, note in enumerate(notes):
        parts.append(
            f'<rect class="{"b" if line else "a"}" x="24" y="{314 + 24 * line}" width="12" height="12" rx="2"/>'
        )
        parts.append(text(note, 44, 325 + 24 * line, "" if line else "strong"))
    about = f"Ranks 0 to 15 by stage, replica and slice. {'; '.join(notes)}."
    return svg(880, 416, "The mesh of sixteen ranks", about, parts)


def tensor_layer() -> str:
    """Draw one decoder layer on two tensor ranks: what each computes, and where they add up."""
    parts = [text("One decoder layer on two tensor ranks", 24, 36, "title")]
    blocks = (("norm", "q, k, v", "attention", "o"), ("norm", "gate, up", "SwiGLU", "down"))
    shares = (("copied", "its heads", "its heads", "of its heads"), ("copied", "its part", "its part", "of its part"))
    left = 24
    for names, share in zip(blocks, shares, strict=True):
        for rank in range(2):
            y = 80 + 92 * rank
            for column, (name, part) in enumerate(zip(names, share, strict=True)):
                x = left + 92 * column
                kind = "n" if column == 0 else "ab"[rank]
                parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="78" height="56" rx="3"/>')
                parts.append(text(name, x + 39, y + 25, "on", middle=True))
                parts.append(text(part, x + 39, y + 42, "on", middle=True))
                parts.append(f'<path class="line" d="M {x + 78} {y + 28} H {x + 91}"/>')
        parts.append(f'<rect class="box" x="{left + 370}" y="80" width="56" height="148" rx="3"/>')
        parts.append(text("sum", left + 398, 150, "strong", middle=True))
        parts.append(text("+ input", left + 398, 170, "small", middle=True))
        left += 442
        if left < 800:
            parts.append(f'<path class="line" d="M {left - 16} 154 H {left - 3}"/>')
    parts += [
        text("rank 0", 24, 72, "small"),
        text("rank 1", 24, 164, "small"),
        text("Forward: one sum after o, one after down. Each adds up an [T, D] tensor; nothing else travels.", 24, 262),
        text(
            "Backward: the mirror image. The gradient passes the sums as it is; behind each norm the two ranks'",
            24,
            286,
        ),
        text("gradients of its output are added up: again two sums of [T, D].", 24, 306),
        text(
            "Gray: not cut. Both ranks compute it from equal inputs and get equal gradients, so it stays equal.",
            24,
            330,
        ),
    ]
    about = (
        "Attention: norm, then q, k, v and attention of the rank's heads, o of these heads, sum. "
        "FFN: norm, then gate, up and SwiGLU of the rank's part of the FFN, down of this part, sum. "
        "In the backward pass the gradients of the two norms' outputs are summed."
    )
    return svg(916, 350, "One decoder layer on two tensor ranks", about, parts)


def one_f_one_b() -> str:
    """Draw three timelines of 1F1B: balanced, the 7B recipe's stage lists, and balanced ones for it."""
    recipe = load_recipe(str(ROOT / "recipes" / "7b_sft.toml"))
    even = [StageTimes(forward=(1.0,) * 8, backward=(2.0,) * 8)] * 4

    def stages(layout: Layout) -> list[StageTimes]:
        rows = stage_work(recipe.spec, layout, SAMPLE, freeze=recipe.model.freeze)
        return [StageTimes(forward=(row.forward / 1e12,) * 8, backward=(row.backward / 1e12,) * 8) for row in rows]

    better = replace(recipe.parallel, text_stages=(5, 7, 7, 9))
    panels = (
        ("Four stages with equal work, eight micro batches", even),
        (f"7B as in its recipe, {shown(recipe.parallel)}: stages 1 and 2 set the pace", stages(recipe.parallel)),
        (f"7B with {shown(better)}, balanced for frozen vision and the recompute tape", stages(better)),
    )
    timelines = [simulate(times) for _, times in panels]
    longest = max(timelines[1].makespan, timelines[2].makespan)
    parts = [text("1F1B on a simulated clock", 24, 36, "title"), *legend()]
    for place, ((title, _), timeline) in enumerate(zip(panels, timelines, strict=True)):
        top = 92 + 184 * place
        scale = 800 / (longest if place else timeline.makespan)
        parts.append(text(f"{title}. Idle: {100 * timeline.bubble:.0f} %", 24, top, "strong"))
        parts += panel(timeline, top + 12, scale)
    parts.append(text("time", 884, 632, "small"))
    parts.append('<path class="line" d="M 84 628 H 876"/>')
    about = (
        "For each of four stages a row of forward and backward boxes with the number of the micro batch. Stage 0 "
        "starts with four forwards, stage 3 alternates from the start; idle time is at the start and the end, and on "
        "stages with less work than others also in between."
    )
    return svg(920, 650, "1F1B on a simulated clock", about, parts)


def legend() -> Iterator[str]:
    """Draw what the colors mean."""
    for x, kind, word in ((24, "a", "forward"), (110, "b", "backward"), (206, "box", "idle")):
        yield f'<rect class="{kind}" x="{x}" y="50" width="12" height="12" rx="2"/>'
        yield text(word, x + 18, 61, "small")
    yield text("The number is that of the micro batch.", 270, 61, "small")


def panel(timeline: Timeline, top: float, scale: float) -> Iterator[str]:
    """Draw the stages of one timeline as rows."""
    for stage, intervals in enumerate(timeline.stages):
        y = top + 36 * stage
        yield text(f"stage {stage}", 24, y + 20)
        yield f'<rect class="box" x="84" y="{y:g}" width="{number(timeline.makespan * scale)}" height="30"/>'
        for interval in intervals:
            x, width = 84 + interval.start * scale, (interval.end - interval.start) * scale
            kind = "a" if interval.action.kind == "forward" else "b"
            yield (
                f'<rect class="{kind}" x="{number(x + 0.5)}" y="{y + 2:g}" width="{number(max(width - 1, 0.5))}" '
                'height="26" rx="2"/>'
            )
            if width > 10:
                yield text(str(interval.action.micro_batch), x + width / 2, y + 19, "on", middle=True)


def svg(width: int, height: int, title: str, about: str, parts: Iterable[str]) -> str:
    """Put the parts onto a page."""
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="title desc">\n  <title id="title">{title}</title>\n  <desc id="desc">{about}</desc>\n'
        f"  <style>\n{STYLE}\n  </style>\n{HEAD}\n"
        f'  <rect class="page" width="{width}" height="{height}" rx="8"/>\n{body}\n</svg>\n'
    )


def text(words: str, x: float, y: float, kind: str = "", *, middle: bool = False) -> str:
    """Write words at a place; `middle` centers them there."""
    style = f' class="{kind}"' if kind else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text{style} x="{number(x)}" y="{number(y)}"{anchor}>{words}</text>'


def number(value: float) -> str:
    """Write a length in tenths of a pixel."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def listed(ranks: Sequence[int]) -> str:
    """Write ranks as 1, 5, 9."""
    return ", ".join(map(str, ranks))


def shown(layout: Layout) -> str:
    """Write the text list; all vision layers are on the first stage."""
    return f"text_stages = {list(layout.text_stages)}"


if __name__ == "__main__":
    sys.exit(main())
