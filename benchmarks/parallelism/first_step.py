"""Time from `qvl run` to the first step, and the largest resident size, for runs of 1, 2, 4 and 8 processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parallelism.combinations import SINGLE, Combination
from parallelism.steps import RECIPE, FailedError, spread

WORLDS = (SINGLE, Combination(pp=2), Combination(tp=2, pp=2), Combination(tp=2, pp=2, dp=2))
POLL_S = 0.01


def measure_first_step(root: Path, rounds: int) -> dict[str, Any]:
    """Start each run in every round; give seconds to the first line of metrics, stamps of the launcher, memory."""
    found: dict[str, list[dict[str, Any]]] = {combination.name: [] for combination in WORLDS}
    for _ in range(rounds):
        for combination in WORLDS:
            with tempfile.TemporaryDirectory() as folder:
                found[combination.name].append(_one_run(root, combination, Path(folder) / "run"))
    return {name: _summary(runs, found[SINGLE.name]) for name, runs in found.items()}


def _one_run(root: Path, combination: Combination, out: Path) -> dict[str, Any]:
    settings = [*combination.settings(), "train.steps=1", "train.micro_batch=2", "train.save.export_hf=false"]
    settings += ["train.log.tensorboard=false", f"output.dir={out}"]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "qvl_core.cli", "run", RECIPE, *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    first_s = None
    metrics = out / "metrics.jsonl"
    while process.poll() is None:
        if first_s is None and metrics.exists() and metrics.stat().st_size:
            first_s = time.perf_counter() - started
        time.sleep(POLL_S)
    text = process.communicate()[0]
    if process.returncode or first_s is None:
        raise FailedError(f"{' '.join(command)}\nended with {process.returncode}:\n{text[-2000:]}")
    record = out / "logs" / "launch.json"
    stamps = json.loads(record.read_text(encoding="utf-8"))["seconds"] if record.exists() else {}
    memory = json.loads((out / "memory.json").read_text(encoding="utf-8"))["peak_memory_gib"]
    return {"first_s": first_s, "end_s": time.perf_counter() - started, "stamps": stamps, "memory_gib": memory}


def _summary(runs: list[dict[str, Any]], single: list[dict[str, Any]]) -> dict[str, Any]:
    names = runs[0]["stamps"]
    return {
        "to_first_step_s": spread([run["first_s"] for run in runs]),
        "ratio_to_one_process": spread([a["first_s"] / b["first_s"] for a, b in zip(runs, single, strict=True)]),
        "whole_run_s": spread([run["end_s"] for run in runs]),
        "launcher_stamps_s": {name: round(statistics.median(run["stamps"][name] for run in runs), 2) for name in names},
        "largest_rank_resident_gib": spread([max(run["memory_gib"]) for run in runs]),
    }
