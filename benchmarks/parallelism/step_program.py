"""What mpiexec starts: steps of every combination, one after the other in every round, in the same processes.

    python step_program.py RESULT ROUNDS STEPS all|quick

Ranks that a combination does not need sleep meanwhile. Each round does STEPS steps of each combination after one that
does not count, twice: as a run does them, and with a barrier before each collective, which tells waiting from talking.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from combinations import ALL, QUICK, Combination
from mpi4py import MPI

RECIPE = "recipes/tiny_sft.toml"
# Samples of a step and of a micro batch: eight replicas have one each, a single process eight in a row.
GLOBAL_BATCH, MICRO_BATCH = 16, 2
LEARNING_RATE = 1e-3


def main(result: Path, rounds: int, steps: int, combinations: Sequence[Combination]) -> None:
    """Measure, and write from rank 0."""
    from qvl_core import device

    device.prepare("cpu")
    # One core for each rank: a tiny operation is not worth two.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[MPI.COMM_WORLD.Get_rank() % len(cores)]})
    device.require_mindspore()
    taking_part = [Part(combination) for combination in combinations]
    for _ in range(rounds):
        for part in taking_part:
            sleep_until_all_are_here()
            part.measure(steps)
    sleep_until_all_are_here()
    if MPI.COMM_WORLD.Get_rank() == 0:
        result.write_text(json.dumps({part.combination.name: part.report() for part in taking_part}))


class Part:
    """This rank's part in a combination."""

    def __init__(self, combination: Combination) -> None:
        self.combination = combination
        self.memory: list[Any] = []
        self.rounds: list[dict[str, float]] = []
        world = MPI.COMM_WORLD
        sleep_until_all_are_here()
        comm = world.Split(0 if world.Get_rank() < combination.world_size else MPI.UNDEFINED)
        if comm == MPI.COMM_NULL:
            return
        self._comm = comm
        self._plain, self.memory = train_step(combination, comm, measure_waiting=False)
        self._with_barriers, _ = train_step(combination, comm, measure_waiting=True)

    def measure(self, steps: int) -> None:
        """Do a round's steps."""
        if not self.memory:
            return
        self._plain(1)
        self._comm.Barrier()
        started, used = time.perf_counter(), processor_time()
        self._plain(steps)
        self._comm.Barrier()
        step_s = (time.perf_counter() - started) / steps
        cpu_s = self._comm.allreduce(processor_time() - used) / steps
        self._with_barriers(1)
        results = self._with_barriers(steps)
        split = {
            key: sum(result.measures.numbers[key] for result in results) / steps
            for key in ("compute_s", "communication_s", "waiting_s")
        }
        self.rounds.append({"step_s": step_s, "cpu_s": cpu_s, **split, "loss": results[-1].loss})

    def report(self) -> dict[str, Any]:
        """Give what rank 0 has found: it is part of every combination."""
        return {"rounds": self.rounds, "memory": self.memory}


def train_step(
    combination: Combination, comm: MPI.Comm, *, measure_waiting: bool
) -> tuple[Callable[[int], list[Any]], list[Any]]:
    """Give a function that does so many steps on this rank, and what all ranks hold in memory for it."""
    from mindspore import Parameter
    from qvl_core import load_recipe
    from qvl_core.parallel.mpi import MpiWorld
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.single import SingleWorld
    from qvl_core.parallel.stage import build_stage
    from qvl_data import batches, prepare
    from qvl_train.meter import Meter
    from qvl_train.reduction import loss_weights
    from qvl_train.step import TrainStep
    from qvl_train.worker import initial_weights, make_optimizer

    sizes = [f"train.global_batch={GLOBAL_BATCH}", f"train.micro_batch={MICRO_BATCH}"]
    recipe = load_recipe(RECIPE, [*combination.settings(), *sizes])
    assert recipe.train is not None
    layout = recipe.parallel
    world = (
        SingleWorld(layout)
        if layout.world_size == 1
        else MpiWorld(layout, recipe.spec, comm=comm, measure_waiting=measure_waiting)
    )
    before = bytes_of(Parameter)
    model = build_stage(recipe.spec, world, initial_weights(recipe, world, reshard=False))
    model.freeze(recipe.model.freeze)
    weights = bytes_of(Parameter) - before
    pipeline = Pipeline(model, world, recompute=recipe.layout.recompute)
    optimizer = make_optimizer(recipe, world, {parameter.name: parameter for parameter in pipeline.trainable})
    # In fp32 the master weights of an unsliced optimizer are the weights themselves and count once.
    state = bytes_of(Parameter) - before - weights
    step = TrainStep(
        pipeline,
        optimizer,
        world,
        recipe.spec,
        clip_norm=recipe.train.optimizer.clip_norm,
        reduction=recipe.train.loss_reduction,
        meter=Meter(world, recipe.spec, freeze=recipe.model.freeze),
    )
    with batches(prepare(recipe), recipe=recipe, dp_rank=world.place.dp, dp_size=layout.dp) as source:
        micro_batches = next(source)
    _, found = pipeline.gradients(micro_batches, loss_weights(micro_batches, "token", 1))
    gradients = sum(gradient.nbytes for gradient in found)
    done = 0

    def run(steps: int) -> list[Any]:
        nonlocal done
        results = [step(micro_batches, lr=LEARNING_RATE, step=done + i + 1) for i in range(steps)]
        done += steps
        return results

    held = {"stage": world.place.pp, "weights": weights, "gradients": gradients, "optimizer": state}
    return run, world.exchange(held)


def bytes_of(kind: type) -> int:
    """Add up the arrays of all objects of this kind that are alive."""
    gc.collect()
    # Not isinstance: it asks what a weak proxy stands for, and that may be gone.
    return sum(found.nbytes for found in gc.get_objects() if issubclass(type(found), kind))


def processor_time() -> float:
    """Give the seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def sleep_until_all_are_here() -> None:
    """Wait for all ranks without taking a core from those that still work."""
    request = MPI.COMM_WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.005)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), QUICK if sys.argv[4] == "quick" else ALL)
    sys.stdout.flush()
    MPI.Finalize()
    # MindSpore's threads now and then end a process that has done everything with a signal.
    os._exit(0)
