"""An evaluation on the tiny model: rows/s batched and one at a time, what a kill and going on cost, bookkeeping.

    python benchmarks/evaluation.py --out evaluation.json [--rows 96] [--rounds 3]

The tiny checkpoint with random weights answers questions of AI2D's shape, each about another picture of 112 x 112, with
exactly 32 new tokens. Batch sizes take turns, so that what else the machine does falls on all of them alike; the first
round warms up and is not counted. All of them have to give the same answers.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "recipes" / "tiny" / "checkpoint"
BATCHES = (1, 4, 8)
DONE_ROWS = 5000
RECIPE = """
schema = 1
task = "eval"
[model]
config = "{checkpoint}"
dtype = "float32"
[weights]
source = "{folder}/weights"
[data.image]
min_pixels = 12544
max_pixels = 12544
[generation]
max_new_tokens = 32
repetition_penalty = 1.0
[eval]
benchmark = "ai2d_test"
data = "{folder}/rows.tsv"
[eval.preflight]
rows = 0
[launch]
device = "cpu"
[output]
dir = "{folder}/run"
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = make_project(folder, given.rows)
        result = {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
            "rows": given.rows,
            "new_tokens_of_a_row": 32,
            "batched": batched(recipe, folder, given.rounds),
            "resume": [resumed(recipe, folder, given.rows, number) for number in range(given.rounds)],
            "bookkeeping": bookkeeping(recipe, folder),
        }
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def make_project(folder: Path, rows: int) -> Path:
    """Write weights, benchmark and recipe; give the recipe."""
    import numpy as np
    from qvl_core.params import parameter_table
    from qvl_core.specs import load_spec
    from qvl_core.weights.hf_writer import write_hf_folder
    from qvl_core.weights.tensor_io import tensor_from_array

    generator = np.random.default_rng(1)
    tensors = []
    for row in parameter_table(load_spec(CHECKPOINT)):
        values = generator.normal(0, 0.2, row.shape) if len(row.shape) > 1 else np.ones(row.shape)
        tensors.append(tensor_from_array(row.name, values.astype(np.float32)))
    write_hf_folder(tensors, CHECKPOINT, folder / "weights")
    write_rows(folder / "rows.tsv", [picture(number) for number in range(rows)])
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(checkpoint=CHECKPOINT, folder=folder), encoding="utf-8")
    return path


def picture(seed: int) -> str:
    """Give the base64 of a PNG of 112 x 112."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_rows(path: Path, cells: Sequence[str]) -> None:
    """Write a question of four options about each picture."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("index", "image", "question", "A", "B", "C", "D", "answer", "category"))
        for number, cell in enumerate(cells):
            options = (f"part {number}", "root", "None", "leaf")
            table.writerow((number, cell, f"What is at {number}?", *options, "ABCD"[number % 4], "c"))


def batched(recipe: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Answer all rows with each batch size in turn, in one process; the model is loaded before the clock starts."""
    from qvl_core.recipe import load_recipe
    from qvl_eval.evaluation import prepare
    from qvl_eval.replica import Replica, answer_share
    from qvl_eval.replica_model import load_replica
    from qvl_eval.work_plan import make_plan
    from rich.console import Console

    seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    answers: set[str] = set()
    held = {}
    for batch in BATCHES:
        evaluation = prepare(load_recipe(recipe, [f"eval.batch={batch}"]))
        loaded, driver = load_replica(evaluation, None)
        held[batch] = evaluation, Replica(loaded=loaded, driver=driver)
    for number in range(rounds + 1):
        for batch in BATCHES:
            evaluation, replica = held[batch]
            target = folder / f"batch_{batch}_{number}"
            target.mkdir()
            here = evaluation.__class__(**{**_fields(evaluation), "folder": target})
            plan = make_plan([row.index for row in here.rows], {}, here.protocol.digest, preflight=0)
            began = time.perf_counter()
            answer_share(here, replica, plan, Console(quiet=True))
            if number:
                seconds[batch].append(time.perf_counter() - began)
            answers.add(_answers(target))
    rows = len(held[BATCHES[0]][0].rows)
    ratios = {batch: [one / other for one, other in zip(seconds[1], seconds[batch], strict=True)] for batch in BATCHES}
    return {
        "same_answers": len(answers) == 1,
        "rows_per_s": {str(batch): _spread([rows / one for one in seconds[batch]]) for batch in BATCHES},
        "times_as_fast_as_one_at_a_time": {str(batch): _spread(ratios[batch]) for batch in BATCHES},
    }


def _fields(evaluation: Any) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in evaluation.__dataclass_fields__}


def _answers(folder: Path) -> str:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_bytes().splitlines()]
    return json.dumps(sorted((row["index"], row["prediction"]) for row in rows))


def resumed(recipe: Path, folder: Path, rows: int, number: int) -> dict[str, float]:
    """Run it whole, and killed at half and gone on with, as processes; give the seconds of both."""
    began = time.perf_counter()
    subprocess.run(_command(recipe, folder / f"whole_{number}"), check=True, capture_output=True)
    whole = time.perf_counter() - began
    target = folder / f"killed_{number}"
    began = time.perf_counter()
    process = subprocess.Popen(_command(recipe, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = target / "predictions.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= rows // 2):
        time.sleep(0.002)
        assert process.poll() is None, "it ended before half of the rows"
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run(_command(recipe, target), check=True, capture_output=True)
    rest = time.perf_counter() - began
    same = log.read_bytes() == (folder / f"whole_{number}" / "predictions.jsonl").read_bytes()
    return {"whole_s": whole, "until_kill_s": half, "rest_s": rest, "overhead_s": half + rest - whole, "same": same}


def _command(recipe: Path, target: Path) -> list[str]:
    words = ["--set", f"output.dir={target}", "--set", "eval.batch=8"]
    return [sys.executable, "-m", "qvl_core.cli", "run", str(recipe), *words]


def bookkeeping(recipe: Path, folder: Path) -> dict[str, float]:
    """Time what a resumed run does before its first answer, with so many rows done: reading, checking, gathering."""
    from qvl_core.recipe import load_recipe
    from qvl_eval.evaluation import prepare
    from qvl_eval.prediction_log import Prediction, PredictionLog, done_answers, gather

    write_rows(folder / "many.tsv", [picture(0), *(["0"] * (DONE_ROWS - 1))])
    began = time.perf_counter()
    evaluation = prepare(load_recipe(recipe, [f"eval.data={folder / 'many.tsv'}"]))
    prepared = time.perf_counter() - began
    target = folder / "many"
    target.mkdir()
    with PredictionLog(target) as log:
        log.add(
            (
                Prediction(
                    key=key,
                    index=index,
                    question="q",
                    answer="A",
                    prediction="The answer is A." * 8,
                    finish="stop",
                    prompt_tokens=100,
                    new_tokens=32,
                ),
                0.5,
            )
            for index, key in evaluation.keys.items()
        )
    began = time.perf_counter()
    found = done_answers(target, evaluation.keys)
    gather(target, evaluation.keys)
    seconds = time.perf_counter() - began
    assert len(found) == DONE_ROWS
    return {"rows": DONE_ROWS, "read_benchmark_s": prepared, "read_and_gather_answers_s": seconds}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
