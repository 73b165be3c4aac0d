"""Step times of all combinations, side by side in one start of eight processes, and what each rank holds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvl_core import load_recipe
from qvl_core.stage_table import StageRow, stage_table

from parallelism.combinations import ALL, QUICK, SINGLE, Combination

PROGRAM = Path(__file__).with_name("step_program.py")
RECIPE = "recipes/tiny_sft.toml"
FP32_BYTES = 4


class FailedError(Exception):
    """A measured process ended with an error; its text is the message."""


def measure_steps(root: Path, rounds: int, steps: int, *, quick: bool) -> dict[str, Any]:
    """Give the figures of each combination."""
    combinations = QUICK if quick else ALL
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        size = max(combination.world_size for combination in combinations)
        words = [str(PROGRAM), str(result), str(rounds), str(steps), "quick" if quick else "all"]
        done = subprocess.run([*mpiexec(size), sys.executable, *words], cwd=root, capture_output=True, text=True)
        if done.returncode or not result.exists():
            raise FailedError(f"the ranks ended with {done.returncode}:\n{done.stderr[-3000:]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    single = found[SINGLE.name]["rounds"]
    return {
        one.name: {**times(found[one.name]["rounds"], single), "memory": memory(root, one, found[one.name]["memory"])}
        for one in combinations
    }


def mpiexec(size: int) -> list[str]:
    """Give the start of a command of `size` processes on this machine."""
    beside = Path(sys.executable).with_name("mpiexec")
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command = [str(beside) if beside.exists() else "mpiexec", *as_root, "-n", str(size), "--oversubscribe"]
    return [*command, "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]


def times(rounds: Sequence[dict[str, float]], single: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Give medians, ratios to the single process of the same round, and how a step's time is split over the ranks."""
    shares = [
        {key: one[key] / (one["compute_s"] + one["communication_s"] + one["waiting_s"]) for key in one}
        for one in rounds
    ]
    return {
        "step_s": spread([one["step_s"] for one in rounds]),
        "ratio_to_one_process": spread([a["step_s"] / b["step_s"] for a, b in zip(rounds, single, strict=True)]),
        "processor_ratio": spread([a["cpu_s"] / b["cpu_s"] for a, b in zip(rounds, single, strict=True)]),
        "share": {
            kind: round(statistics.median(share[f"{kind}_s"] for share in shares), 3)
            for kind in ("compute", "communication", "waiting")
        },
        "loss": rounds[-1]["loss"],
    }


def memory(root: Path, combination: Combination, ranks: Sequence[dict[str, int]]) -> dict[str, Any]:
    """Compare what the ranks hold, counted from their arrays, with what the parameter table says of their stages."""
    recipe = load_recipe(root / RECIPE, combination.settings())
    rows = stage_table(recipe.spec, recipe.parallel, freeze=recipe.model.freeze, dtype="float32")
    predicted = [prediction(rows[rank["stage"]], combination) for rank in ranks]
    kinds = ("weights", "gradients", "optimizer")
    return {
        "largest_rank_bytes": {kind: max(rank[kind] for rank in ranks) for kind in kinds},
        "largest_rank_predicted": {kind: max(one[kind] for one in predicted) for kind in kinds},
        "worst_ratio": {
            kind: round(
                max((a[kind] / b[kind] for a, b in zip(ranks, predicted, strict=True)), key=lambda x: abs(x - 1)), 4
            )
            for kind in kinds
        },
    }


def prediction(row: StageRow, combination: Combination) -> dict[str, float]:
    """Give the bytes of a rank in fp32: moments, and with ZeRO-1 a master copy of the slice that it updates."""
    arrays, replicas = (3, combination.dp) if combination.zero1 else (2, 1)
    return {
        "weights": row.rank_bytes,
        "gradients": row.rank_trainable * FP32_BYTES,
        "optimizer": row.rank_trainable * FP32_BYTES * arrays / replicas,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give median, least and most."""
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }
