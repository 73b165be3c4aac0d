"""Measure packing, seeking in the order, balancing and the scaling of data workers; print JSON.

    python benchmarks/data_order.py [--quick] [--only packing seek balance workers waiting] [--rounds 3]

`packing`: seconds to form packs and to deal one round, and the share of the room that is filled, for log-normal mixes
of lengths; first fit on 20,000 for comparison. `seek`: seconds from nothing to the first 16 items at position 10 and at
10,000,000 of a data set of 12,000,000 samples; packs are formed once at the start of a run, apart. `balance`: by how
much the fullest replica exceeds the mean before and after. `workers`: images of 800 x 600 pixels a second with 0, 1 and
2 workers, nothing else running in the process; each in turn in every round. Other work on the machine spoils that, so
the threads alone are looked at too: `blocked` is the share of their time in which they neither run nor wait for a core
(on Linux), so wait for each other; `scaling_without_others` is what two make of that. `waiting`: the share of a step
that waits for data in the tiny run, with 0, 1 and 2 workers, median over the steps.

Packing, seeking and balancing are given in processor seconds of this one thread, the rest in wall time: it is waiting
that is measured. All as median, least and most over the rounds. Nothing is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
PARTS = ("packing", "seek", "balance", "workers", "waiting")
MIXES = {"1024": (250, 0.7), "2048": (350, 0.8), "8192": (900, 1.0)}
"""Capacity in tokens -> median and sigma of the lengths before they are cut at 16 and at the capacity."""
FAR = 10_000_000


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, help="3; 1 with --quick")
    # `nox -s bench -- --quick` gives the same words to every script.
    given = parser.parse_known_args()[0]
    rounds = given.rounds or (1 if given.quick else 3)
    measures: dict[str, Callable[[int, bool], Any]] = {
        "packing": packing,
        "seek": seek,
        "balance": balance,
        "workers": workers,
        "waiting": waiting,
    }
    report: dict[str, Any] = {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "load_at_start": os.getloadavg()[0],
        },
        "rounds": rounds,
    }
    for name in given.only:
        report[name] = measures[name](rounds, given.quick)
    print(json.dumps(report, indent=1))


def log_normal(count: int, capacity: int) -> NDArray[np.int32]:
    """Draw lengths in tokens."""
    median, sigma = MIXES[str(capacity)]
    drawn = np.random.default_rng(0).lognormal(np.log(median), sigma, count)
    return np.clip(np.round(drawn), 16, capacity).astype(np.int32)


def packing(rounds: int, quick: bool) -> Any:
    """Form and deal packs."""
    from qvl_data.order.packing import PackGroup

    found: dict[str, Any] = {}
    for capacity in map(int, MIXES):
        for count in (10**5,) if quick else (10**5, 10**7):
            lengths = log_normal(count, capacity)
            form = partial(PackGroup, number=0, members=np.arange(count), lengths=lengths, capacity=capacity)
            group = form()
            forming = spread([processor_s(form) for _ in range(rounds)])
            dealing = spread([processor_s(partial(group.deal, 1, number)) for number in range(rounds)])
            packs = group.packs
            found[f"{count} samples, {capacity} tokens"] = {
                "fill": round(packs.fill(capacity), 5),
                "packs": len(packs),
                "samples_per_pack": round(count / len(packs), 2),
                "form_s": forming,
                "deal_round_s": dealing,
            }
        few = log_normal(10**5, capacity)[:20_000]
        found[f"first fit, 20000 samples, {capacity} tokens"] = round(
            int(few.sum()) / (capacity * first_fit(few, capacity)), 5
        )
    return found


def first_fit(lengths: NDArray[np.int32], capacity: int) -> int:
    """Count the packs when samples are put, as they come, into the first pack that has room."""
    rooms = np.zeros(len(lengths), np.int32)
    used = 0
    for length in lengths.tolist():
        fitting = np.flatnonzero(rooms[:used] >= length)
        at = int(fitting[0]) if len(fitting) else used
        if at == used:
            rooms[at], used = capacity, used + 1
        rooms[at] -= length
    return used


def seek(rounds: int, quick: bool) -> Any:
    """Find places in every kind of order."""
    from qvl_data.order.items import PackItems, SampleItems
    from qvl_data.order.stream_order import StreamOrder

    count = 1_200_000 if quick else 12_000_000
    far = FAR // 10 if quick else FAR
    capacity = 2048
    lengths = log_normal(count, capacity)
    halves, weights = (count // 2, count - count // 2), (1.0, 0.5)
    block_rows = [[256] * (count // 256)]
    makers: dict[str, Callable[[], Any]] = {
        "plain": lambda: SampleItems(counts=(count,), weights=(1.0,), lengths=lengths, seed=1),
        "weighted": lambda: SampleItems(counts=halves, weights=weights, lengths=lengths, seed=1),
        "packed": lambda: PackItems(counts=(count,), weights=(1.0,), lengths=lengths, capacity=capacity, seed=1),
        "streaming": lambda: StreamOrder(block_rows=block_rows, weights=(1.0,), window=16_384, seed=1),
    }
    found: dict[str, Any] = {"samples": count}
    for name, make in makers.items():
        row: dict[str, Any] = {"make_s": spread([processor_s(make) for _ in range(rounds)])}
        for position in (10, far):
            times = []
            for _ in range(rounds):
                order = make()
                times.append(processor_s(partial(read, order, position)))
            row[f"seek_{position}_s"] = spread(times)
        found[name] = row
    return found


def read(order: Any, position: int) -> None:
    """Read 16 items or rows from a position on."""
    if hasattr(order, "items"):
        order.items(position, 16)
    else:
        for i in range(16):
            order.row(position + i)


def balance(rounds: int, quick: bool) -> Any:
    """Deal steps of a log-normal mix to replicas."""
    from qvl_data.order.balance import deal_step

    found = {}
    for micro_batch, replicas in ((1, 8), (4, 4), (4, 16)):
        lengths = log_normal(256 * 50, 2048).reshape(50, 256).tolist()
        before, after = [], []
        for tokens in lengths:
            plain = [list(range(i, i + micro_batch)) for i in range(0, 256, micro_batch)]
            before.append(excess(tokens, [plain[rank::replicas] for rank in range(replicas)]))
            after.append(excess(tokens, deal_step(tokens, micro_batch, replicas)))
        times = [processor_s(partial(deal_step, lengths[0], micro_batch, replicas)) for _ in range(max(5, rounds))]
        found[f"256 samples, micro batch {micro_batch}, {replicas} replicas"] = {
            "fullest_replica_over_mean_before": round(statistics.fmean(before), 4),
            "after": round(statistics.fmean(after), 5),
            "deal_s": spread(times),
        }
    return found


def excess(tokens: Sequence[int], dealt: Sequence[Sequence[Sequence[int]]]) -> float:
    """Give by how much the fullest replica exceeds the mean."""
    sums = [sum(tokens[index] for group in replica for index in group) for replica in dealt]
    return max(sums) / statistics.fmean(sums) - 1


def workers(rounds: int, quick: bool) -> Any:
    """Make samples of images with 0, 1 and 2 workers."""
    from PIL import Image
    from qvl_core.recipe import load_recipe
    from qvl_data import batches, prepare

    images, steps = (16, 3) if quick else (64, 12)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0)
        records = []
        for number in range(images):
            coarse = Image.fromarray(noise.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            coarse.resize((800, 600), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
            turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."}]
            records.append({"image": f"{number}.jpg", "conversations": turns})
        (folder / "train.json").write_text(json.dumps(records))
        settings = (
            f'data.sources=[{{path="{folder}/train.json",format="llava",media_root="{folder}"}}]',
            f"weights.source={ROOT / 'recipes' / 'tiny' / 'checkpoint'}",
            "data.image.max_pixels=262144",
            "data.sequence_length=1024",
            f"data.cache_dir={folder}/cache",
            "train.micro_batch=4",
            "train.global_batch=8",
        )
        recipes = {
            n: load_recipe(str(ROOT / "recipes" / "tiny_sft.toml"), (*settings, f"data.workers={n}")) for n in (0, 1, 2)
        }
        data = prepare(recipes[0])
        rates: dict[int, list[float]] = {n: [] for n in recipes}
        for _ in range(rounds):
            for n, recipe in recipes.items():
                with batches(data, recipe=recipe) as source:
                    next(source)
                    started = time.perf_counter()
                    for _ in islice(source, steps):
                        pass
                    rates[n].append(8 * steps / (time.perf_counter() - started))
        alone = {n: [threads_alone(data.train, n, 16 * steps) for _ in range(rounds)] for n in (1, 2)}
    kept = [(1 - two[1]) / (1 - one[1]) for one, two in zip(alone[1], alone[2], strict=True)]
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "images": "800 x 600 JPEG, resized to at most 262144 pixels",
        "samples_per_s": {f"workers {n}": spread(values) for n, values in rates.items()},
        "two_over_one": spread(ratios),
        "processor_ms_per_sample": {f"threads {n}": spread([one[0] for one in found]) for n, found in alone.items()},
        "blocked": {f"threads {n}": spread([one[1] for one in found]) for n, found in alone.items()},
        "scaling_without_others": spread([2 * one for one in kept]),
    }


def threads_alone(dataset: Any, count: int, samples: int) -> tuple[float, float]:
    """Make samples in threads that nobody takes from: processor time of one in ms, and the share spent blocked."""
    from qvl_data.batching.worker_threads import WorkerThreads

    with WorkerThreads(count, name="bench") as threads:
        numbers = [thread.native_id for thread in threads._threads]
        first = [scheduled_s(number) for number in numbers]
        started = time.perf_counter()
        tasks = [threads.submit(lambda _, i=i: dataset.sample(i % len(dataset))) for i in range(samples)]
        for task in tasks:
            task.result(600.0)
        wall = count * (time.perf_counter() - started)
        last = [scheduled_s(number) for number in numbers]
    running, queued = (sum(b[i] - a[i] for a, b in zip(first, last, strict=True)) for i in range(2))
    return 1e3 * running / samples, max(0.0, (wall - running - queued) / (wall - queued))


def scheduled_s(thread: int | None) -> tuple[float, float]:
    """Give how long a thread has run and how long it has waited for a core, seconds."""
    running, queued, _ = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    return int(running) / 1e9, int(queued) / 1e9


def waiting(rounds: int, quick: bool) -> Any:
    """Train the tiny recipe with 0, 1 and 2 workers."""
    import subprocess
    import sys

    steps = 10 if quick else 40
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for n in (0, 1, 2):
            out = Path(name) / str(n)
            settings = [f"data.workers={n}", f"train.steps={steps}", f"output.dir={out}", "train.save.export_hf=false"]
            words = [word for setting in settings for word in ("--set", setting)]
            command = [sys.executable, "-m", "qvl_core.cli", "run", "recipes/tiny_sft.toml", *words]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            # The first steps compile.
            late = [row for row in rows if "loss" in row][3:]
            found[f"workers {n}"] = {
                "data_share": spread([row["data_s"] / row["step_time_s"] for row in late]),
                "step_time_s": spread([row["step_time_s"] for row in late]),
            }
    return found


def processor_s(work: Callable[[], object]) -> float:
    """Give the processor time of a call in this thread."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give median, least and most."""
    numbers = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {key: float(f"{value:.4g}") for key, value in numbers.items()}


if __name__ == "__main__":
    main()
