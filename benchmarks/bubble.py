"""Work out how long the stages of the shipped fine-tuning recipes stand idle, on a simulated clock; print JSON.

    python benchmarks/bubble.py [--seed 0]

Nothing is run and nothing is measured: stage lists, frozen components, recomputation and the number of micro batches
are the recipes', a stage takes as long as it has multiplications (`qvl_core.parallel.stage_work`), and 1F1B orders the
work (`qvl_core.parallel.clock`). Left out, because it needs the device: transfers and collectives, the optimizer, the
speed of each kernel, memory traffic, waiting for data.

Every recipe is tried with three pairs of stage lists: its own, those that qvl derives when they are left out, and
`balanced`, which deals text layers out by the work counted here, with what is frozen and recomputed. Micro batches are
of the same size; of several sizes, in the order drawn; or these sorted by size (the order within a step is free: their
gradients are summed). The pipeline recomputes, as qvl's does, or keeps activations from forward to backward.

`bubble` is the idle part of all stages' time; `ideal` that of balanced stages with as many micro batches,
(p - 1) / (m + p - 1); `least` what these very stages lose in any order of work. What `least` has above `ideal` is due
to the stage lists, what `bubble` has above `least` to the order and the sizes. `step` is the length of a step, 1 being
the recipe's own work spread evenly over its stages without any idle time.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from qvl_core import load_recipe
from qvl_core.geometry import image_grid
from qvl_core.layout import Layout
from qvl_core.layout_rules import derive_stages
from qvl_core.parallel.clock import StageTimes, ideal_bubble, shortest_bubble, simulate
from qvl_core.parallel.stage_work import MicroBatch, StageWork, stage_work
from qvl_core.params import Component
from qvl_core.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("3b_sft", "7b_sft", "32b_sft", "72b_sft")
# Photographs as data sets have them (height, width), and words of text around them: 563 tokens a sample on average,
# which is what the reference stack states for its training data, and a third of the text is answers.
PHOTOGRAPH, PHOTOGRAPHS = (480, 640), ((480, 640), (640, 480), (427, 640), (375, 500), (333, 500), (224, 224))
TEXT_TOKENS, TEXT_RANGE, ANSWERS = 243, (60, 460), 3


def main() -> None:
    """Simulate every recipe and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the sizes of the varied micro batches")
    # `nox -s bench -- --quick` gives the same words to every script.
    seed = parser.parse_known_args()[0].seed
    report = {name: simulated(load_recipe(str(ROOT / "recipes" / f"{name}.toml")), seed) for name in RECIPES}
    note = "simulated clock: nothing was run; no transfers, collectives, optimizer or kernel speeds"
    print(json.dumps({"clock": note, "seed": seed, **report}, indent=2))


def simulated(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Give the figures of a recipe: its own stage lists, and the derived ones."""
    layout, train = recipe.parallel, recipe.train
    assert train is not None, "a recipe for training has [train]"
    micro_batches = train.global_batch // (train.micro_batch * layout.dp)
    vision, text = derive_stages(recipe.spec, layout.pp)
    drawn = varied(recipe, micro_batches, random.Random(seed))
    samples = {
        "same size": [micro_batch(recipe, PHOTOGRAPH, TEXT_TOKENS)] * micro_batches,
        "varied": drawn,
        "varied, sorted": sorted(drawn, key=lambda batch: (sum(batch.sequences), sum(batch.frames))),
    }
    figures = {}
    for tape in (True, False):
        lists = {
            "recipe": layout,
            "derived": replace(layout, vision_stages=vision, text_stages=text),
            "balanced": balanced(recipe, samples["same size"][0], tape),
        }
        for size, batches in samples.items():
            rows = {name: clocked(recipe, cut, batches, tape) for name, cut in lists.items()}
            work = (1 - rows["recipe"]["bubble"]) * rows["recipe"]["step"]
            figures[f"{size}, {'recompute tape' if tape else 'kept activations'}"] = {
                name: {**row, "bubble": round(row["bubble"], 4), "step": round(row["step"] / work, 3)}
                for name, row in rows.items()
            }
    return {
        "stages": layout.pp,
        "micro_batches": micro_batches,
        "ideal": round(ideal_bubble(layout.pp, micro_batches), 4),
        **figures,
    }


def clocked(recipe: Recipe, layout: Layout, batches: list[MicroBatch], tape: bool) -> dict[str, Any]:
    """Run one step on the clock."""
    rows = {batch: work_of(recipe, layout, batch, tape) for batch in set(batches)}
    times = []
    for stage in range(layout.pp):
        forward = tuple(float(rows[batch][stage].forward) for batch in batches)
        backward = tuple(float(rows[batch][stage].backward) for batch in batches)
        times.append(StageTimes(forward=forward, backward=backward if any(backward) else ()))
    timeline = simulate(times)
    busy = [timeline.busy(stage) for stage in range(layout.pp)]
    return {
        "vision_stages": list(layout.vision_stages),
        "text_stages": list(layout.text_stages),
        "work_of_stages": [round(work / max(busy), 3) for work in busy],
        "bubble": timeline.bubble,
        "least": round(shortest_bubble(times), 4),
        "step": timeline.makespan,
    }


def balanced(recipe: Recipe, batch: MicroBatch, tape: bool) -> Layout:
    """Keep the recipe's vision list; give text layers one by one to the stage that is cheapest with one more."""
    layout = recipe.parallel
    last_vision = max((stage for stage, count in enumerate(layout.vision_stages) if count), default=0)
    counts = [int(stage >= last_vision and not layout.vision_stages[stage]) for stage in range(layout.pp)]
    counts[-1] = max(counts[-1], 1)
    while sum(counts) < recipe.spec.text.num_layers:
        costs = []
        for stage in range(last_vision, layout.pp):
            more = tuple(count + (place == stage) for place, count in enumerate(counts))
            row = work_of(recipe, replace(layout, text_stages=more), batch, tape)[stage]
            costs.append((row.forward + row.backward, stage))
        counts[min(costs)[1]] += 1
    return replace(layout, text_stages=tuple(counts))


def work_of(recipe: Recipe, layout: Layout, batch: MicroBatch, tape: bool) -> tuple[StageWork, ...]:
    """Count every stage's work with what the recipe freezes and recomputes."""
    return stage_work(
        recipe.spec,
        layout,
        batch,
        freeze=recipe.model.freeze,
        recompute=recomputed(recipe),
        recompute_tape=tape,
    )


def recomputed(recipe: Recipe) -> tuple[Component, ...]:
    """List the components whose layers run again in the backward pass."""
    stated = recipe.layout.recompute
    if isinstance(stated, str):
        return ("vision", "merger", "text") if stated == "full" else ()
    return stated


def varied(recipe: Recipe, micro_batches: int, chance: random.Random) -> list[MicroBatch]:
    """Draw photographs and lengths of text; every tenth micro batch has no image."""
    found = []
    for _ in range(micro_batches):
        photograph = None if chance.random() < 0.1 else chance.choice(PHOTOGRAPHS)
        found.append(micro_batch(recipe, photograph, chance.randint(*TEXT_RANGE)))
    return found


def micro_batch(recipe: Recipe, photograph: tuple[int, int] | None, text_tokens: int) -> MicroBatch:
    """Give a micro batch of `train.micro_batch` equal samples, the image as large as the recipe allows."""
    assert recipe.train is not None
    samples, bounds, vision = recipe.train.micro_batch, recipe.data.image, recipe.spec.vision
    patches = 0
    if photograph is not None:
        pixels = {"min_pixels": bounds.min_pixels, "max_pixels": bounds.max_pixels}
        _, height, width = image_grid(*photograph, vision=vision, **pixels)
        patches = height * width
    length = text_tokens + patches // vision.merge_unit
    assert length <= recipe.data.sequence_length, "longer samples are not part of a run"
    return MicroBatch(
        sequences=(length,) * samples,
        frames=(patches,) * samples if patches else (),
        labels=samples * text_tokens // ANSWERS,
    )


if __name__ == "__main__":
    main()
