"""`qvl run` of an evaluation over several processes: the same files in every layout, also where a rank is killed."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.tensor_io import tensor_from_array

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "recipes" / "tiny" / "checkpoint"
# Not divisible by any number of replicas that is tried.
ROWS = 31
RECIPE = """
schema = 1
task = "eval"
[model]
config = "{checkpoint}"
dtype = "float32"
[weights]
source = "{folder}/weights"
[generation]
max_new_tokens = 6
repetition_penalty = 1.3
[eval]
benchmark = "mmmu_dev_val"
data = "{folder}/rows.tsv"
prompts = "default"
rules = ["vlmevalkit-2026-06+mmmu-official", "vlmevalkit-2026-06", "mmmu-official"]
batch = 3
[eval.preflight]
on_failure = "continue"
[launch]
device = "cpu"
[data.image]
min_pixels = 784
max_pixels = 12544
[output]
dir = "{folder}/one"
"""
# Nothing takes as long, however busy the machine is.
PATIENCE_S = 1800
# Python imports it in every process of a run: the second replica kills itself when its fourth answer is to be written.
DEADLY = """
import os, signal
plain, count = os.write, [0]
def write(descriptor, data):
    count[0] += os.readlink(f"/proc/self/fd/{descriptor}").endswith("predictions.001.jsonl")
    if count[0] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(descriptor, data)
os.write = write
"""
_OWN = {"run.json", "times.jsonl", ".lock", "logs"}


def picture(seed: int) -> str:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    shape = (int(rng.integers(28, 120)), int(rng.integers(28, 120)), 3)
    Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with random weights, a benchmark of MMMU's shape, a recipe, and its run in one process."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(3)
    tensors = []
    for row in parameter_table(load_spec(CHECKPOINT)):
        values = rng.normal(0, 0.2, row.shape) if len(row.shape) > 1 else np.ones(row.shape)
        tensors.append(tensor_from_array(row.name, values.astype(np.float32)))
    write_hf_folder(tensors, CHECKPOINT, folder / "weights")
    header = ("id", "index", "question", "split", "A", "B", "C", "answer", "question_type", "image", "l2-category")
    with (folder / "rows.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow((*header, "category"))
        for number in range(ROWS):
            several = str([picture(number), picture(number + 100)])
            image = (
                several if number % 3 == 0 else picture(number) if number % 3 == 1 or number < 3 else str(number - 2)
            )
            is_open = number % 7 == 6
            options = ("", "", "") if is_open else ("one", "None", f"<image 1> {number}")
            kind, answer = ("open", str(number)) if is_open else ("multiple-choice", "ABC"[number % 3])
            split = "dev" if number < 5 else "validation"
            question = f"See <image 1>: {number}?"
            table.writerow((f"id{number}", number, question, split, *options, answer, kind, image, "Math", "Science"))
    (folder / "recipe.toml").write_text(RECIPE.format(checkpoint=CHECKPOINT, folder=folder), encoding="utf-8")
    done = evaluate(folder, "one")
    assert done.returncode == 0, done.stderr
    return folder


def command(project: Path, name: str, *settings: str) -> list[str]:
    words = [word for one in (f"output.dir={project / name}", *settings) for word in ("--set", one)]
    return [sys.executable, "-m", "qvl_core.cli", "run", str(project / "recipe.toml"), *words]


def evaluate(project: Path, name: str, *settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(project, name, *settings), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _OWN & set(path.relative_to(folder).parts)
    }


@pytest.mark.parametrize("layout", ["dp=3", "tp=2", "pp=2"])
def test_every_layout_ends_with_the_same_files(project: Path, layout: str) -> None:
    done = evaluate(project, layout, f"layout.{layout}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(project / layout) == files_of(project / "one")
    rows = [json.loads(line) for line in files_of(project / layout)["predictions.jsonl"].splitlines()]
    assert len(rows) == ROWS
    assert len({row["prediction"] for row in rows}) > 1, "the rows do not differ: this proves nothing"
    assert re.search(r"answered \d+/31 rows, \d+:\d\d left", done.stdout)


def test_replicas_that_are_cut_over_ranks_share_the_rows(project: Path) -> None:
    done = evaluate(project, "mixed", "layout.tp=2", "layout.dp=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(project / "mixed") == files_of(project / "one")


def test_a_killed_rank_ends_the_run_and_its_rows_are_there_for_another_layout(project: Path) -> None:
    folder = project / "killed"
    (project / "deadly").mkdir()
    (project / "deadly" / "sitecustomize.py").write_text(DEADLY, encoding="utf-8")
    path = os.pathsep.join([str(project / "deadly"), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        command(project, "killed", "layout.dp=2", "eval.batch=1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.returncode == 1, process.stdout
    assert "rank 1" in process.stdout
    assert "SIGKILL" in process.stdout
    done = (folder / "predictions.001.jsonl").read_bytes().count(b"\n")
    again = evaluate(project, "killed", "layout.dp=1")
    assert again.returncode == 0, again.stderr
    assert re.search(r"(\d+) of 31 rows were answered before", again.stdout)
    assert done == 3
    assert files_of(folder) == files_of(project / "one")
