"""Measure what measuring and logging add to a training step; print JSON.

    python benchmarks/overhead.py [--rounds 120] [--steps 1] [--set KEY=VALUE]

One process trains recipes/tiny_sft.toml in blocks of steps, alternately with everything on (clock, FLOPs, memory,
stragglers, metrics.jsonl, TensorBoard, progress bar on a terminal) and with everything off. `cpu_ratio` and
`wall_ratio` are medians of on / off over the rounds, with their quartiles. The target is an overhead under 1 %. On a
busy machine the ratios of single rounds differ by more than that, so `direct_us` times the calls themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "recipes/tiny_sft.toml"
LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of a block of steps."""

    wall_s: float
    cpu_s: float


class Trainer:
    """The two kinds of steps, of one model."""

    def __init__(self, recipe: Recipe) -> None:
        from qvl_core.parallel.pipeline import Pipeline
        from qvl_core.parallel.single import SingleWorld
        from qvl_core.parallel.stage import build_stage
        from qvl_data import batches, prepare
        from qvl_train.meter import Meter
        from qvl_train.step import TrainStep
        from qvl_train.straggler import Stragglers
        from qvl_train.worker import initial_weights, make_optimizer

        assert recipe.train is not None
        world = SingleWorld(recipe.parallel)
        self.world = world
        self.pipeline = Pipeline(build_stage(recipe.spec, world, initial_weights(recipe, world, reshard=False)), world)
        optimizer = make_optimizer(recipe, world, {one.name: one for one in self.pipeline.trainable})
        sizes: dict[str, Any] = {"clip_norm": 1.0, "reduction": "token"}
        self.off = TrainStep(self.pipeline, optimizer, world, recipe.spec, **sizes)
        self.meter = Meter(world, recipe.spec, peak_tflops=1.0)
        self.on = TrainStep(self.pipeline, optimizer, world, recipe.spec, meter=self.meter, **sizes)
        self.silent, self.clock = self.off._clock, self.meter.clock
        self.stragglers = Stragglers(world.layout, ["here"])
        with batches(prepare(recipe), recipe=recipe) as source:
            # The same batches in every block: their sizes are not to be measured.
            self.batches = [next(source) for _ in range(4)]
        self.done = 0

    def next_batches(self) -> Any:
        self.done += 1
        return self.batches[self.done % len(self.batches)]


def plain_block(trainer: Trainer, steps: int) -> Spent:
    """Train without measuring."""
    trainer.pipeline.clock = trainer.silent
    with timed() as spent:
        for _ in range(steps):
            trainer.off(trainer.next_batches(), lr=LEARNING_RATE, step=trainer.done)
    return spent()


def measured_block(trainer: Trainer, steps: int, folder: Path) -> Spent:
    """Train as a run does."""
    from qvl_train.loop import _row
    from qvl_train.metrics import MetricsLog
    from qvl_train.progress import TrainingProgress
    from qvl_train.reports import FirstRankReports
    from qvl_train.time_table import TimeTable
    from rich.console import Console

    trainer.pipeline.clock = trainer.clock
    trainer.meter.clock.take()
    table = TimeTable()
    with ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        console = Console(file=nowhere, force_terminal=True, width=100)
        metrics = stack.enter_context(MetricsLog(folder, step=trainer.done, tensorboard=True))
        progress = stack.enter_context(TrainingProgress(console, first_step=0, steps=10**6))
        reports = FirstRankReports(folder, metrics, progress)
        # The first row makes TensorBoard's file, the first drawing lays the bar out: once a run, not once a step.
        reports.write({"step": trainer.done, "begun": 1})
        reports.advance(trainer.done, loss=1.0, step_time_s=1.0, tokens_per_s=1.0)
        with timed() as spent:
            for _ in range(steps):
                trainer.clock.switch("data")
                batches = trainer.next_batches()
                trainer.clock.switch("other")
                result = trainer.on(batches, lr=LEARNING_RATE, step=trainer.done)
                row = _row(trainer.done, LEARNING_RATE, result)
                table.add(row)
                reports.write(row)
                reports.advance(
                    trainer.done, loss=result.loss, step_time_s=row["step_time_s"], tokens_per_s=row["tokens_per_s"]
                )
                trainer.stragglers.see(result.measures.compute_s)  # type: ignore[union-attr]
        return spent()


class timed:  # noqa: N801
    """Time what is done inside; calling what it gives says how long it took."""

    def __enter__(self) -> Callable[[], Spent]:
        self._began = time.perf_counter(), time.process_time()
        return self._spent

    def __exit__(self, *error: object) -> None:
        self._ended = time.perf_counter(), time.process_time()

    def _spent(self) -> Spent:
        wall_s, cpu_s = (b - a for a, b in zip(self._began, self._ended, strict=True))
        return Spent(wall_s=wall_s, cpu_s=cpu_s)


def direct(trainer: Trainer, folder: Path) -> dict[str, float]:
    """Time the calls that a step has more: what the meter does, and what becomes of its numbers. Microseconds."""
    from qvl_train.metrics import MetricsLog
    from qvl_train.progress import TrainingProgress
    from rich.console import Console

    batches = trainer.next_batches()
    told = [trainer.meter.take(batches)]
    tokens = sum(batch.tokens for batch in batches)
    numbers = trainer.meter.summary(told, tokens=tokens, samples=16).numbers
    steps = itertools.count(10**6)
    with (
        Path(os.devnull).open("w") as nowhere,
        MetricsLog(folder, step=trainer.done, tensorboard=True) as metrics,
        TrainingProgress(Console(file=nowhere, force_terminal=True, width=100), first_step=0, steps=10**6) as progress,
    ):
        progress.advance(1, loss=1.0, step_time_s=1.0, tokens_per_s=1.0)
        return {
            "clock_switch": microseconds(lambda: trainer.clock.switch("forward")),
            "meter_take": microseconds(lambda: trainer.meter.take(batches)),
            "exchange_more": microseconds(lambda: json.loads(json.dumps(told))),
            "meter_summary": microseconds(lambda: trainer.meter.summary(told, tokens=tokens, samples=16)),
            "bar_drawn": microseconds(progress._bar.refresh),
            "row_written": microseconds(lambda: metrics.write({"step": next(steps), **numbers})),
        }


def microseconds(call: Callable[[], object], times: int = 300) -> float:
    """Give the median duration of a call."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(found), 1)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give the median, the quartiles and the median's standard error."""
    low, middle, high = statistics.quantiles(values, n=4)
    # As of a normal distribution: its quartiles are 1.35 deviations apart, a median is 1.25 times as unsure as a mean.
    error = (high - low) / 1.35 * 1.25 / len(values) ** 0.5
    return {
        key: round(value, 4) for key, value in (("median", middle), ("lower", low), ("upper", high), ("error", error))
    }


def pairs(trainer: Trainer, rounds: int, steps: int, folder: Path) -> Iterator[tuple[Spent, Spent]]:
    """Yield a measured and a plain block of each round, which of them first changing from round to round."""
    for number in range(rounds):
        if number % 2:
            plain = plain_block(trainer, steps)
            yield measured_block(trainer, steps, folder), plain
        else:
            yield measured_block(trainer, steps, folder), plain_block(trainer, steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    # `nox -s bench -- --quick` gives the same words to every script.
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_known_args()[0]
    rounds, steps = (3, 2) if chosen.quick else (chosen.rounds, chosen.steps)
    os.chdir(ROOT)
    from qvl_core import load_recipe
    from qvl_core.parallel.joining import prepare_device
    from qvl_train.progress import REDRAW_S

    recipe = load_recipe(RECIPE, chosen.settings)
    prepare_device(recipe)
    trainer = Trainer(recipe)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_block(trainer, 2)
        found = list(pairs(trainer, rounds, steps, folder))
        calls = direct(trainer, folder)
    step_s = statistics.median(plain.wall_s for _, plain in found) / steps
    micro_batches = len(trainer.batches[0])
    # Load by others makes a step long, but no single short call: the share is one of processor time.
    step_cpu_s = statistics.median(plain.cpu_s for _, plain in found) / steps
    # Of a micro batch: forward, backward and what is around them; of a step: eight more.
    switches = 8 + 6 * micro_batches
    once = ("meter_take", "exchange_more", "meter_summary", "row_written")
    added_us = sum(calls[name] for name in once) + switches * calls["clock_switch"]
    added_us += calls["bar_drawn"] * min(1.0, step_s / REDRAW_S)
    report = {
        "recipe": RECIPE,
        "settings": chosen.settings,
        "rounds": rounds,
        "steps_of_a_block": steps,
        "step_s": round(step_s, 4),
        "step_cpu_s": round(step_cpu_s, 4),
        "cpu_ratio": spread([on.cpu_s / off.cpu_s for on, off in found]),
        "wall_ratio": spread([on.wall_s / off.wall_s for on, off in found]),
        "direct_us": calls,
        "direct_share_of_a_step": round(1e-6 * added_us / step_cpu_s, 5),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # MindSpore's threads now and then end a process that has done everything with a signal.
    os._exit(0)
