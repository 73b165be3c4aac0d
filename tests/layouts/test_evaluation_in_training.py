"""[eval] in a training recipe: the same steps as without it, and the answers that the exported weights give."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "recipes" / "tiny"
RECIPE = """
schema = 1
task = "{task}"
[model]
name = "qwen2.5-vl-tiny"
dtype = "float32"
[weights]
source = "{weights}"
{init}
[data]
workers = 0
sequence_length = 128
{data}
[data.image]
min_pixels = 3136
max_pixels = 3136
[generation]
max_new_tokens = 3
repetition_penalty = 1.0
[launch]
device = "cpu"
[output]
dir = "{folder}/{name}"
"""
TRAIN = """
[train]
steps = 5
micro_batch = 2
global_batch = 4
[train.optimizer]
lr = 3e-3
[train.save]
every = 3
[train.log]
tensorboard = false
"""
# 13 rows: not divisible by any number of replicas.
EVAL = """
[eval]
benchmark = "digits_test"
data = "{folder}/held.tsv"
rules = "exact"
batch = 4
{every}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with 24 training pictures, 13 held-out ones and three recipes: plain, evaluated, eval."""
    folder = tmp_path_factory.mktemp("training")
    shutil.copytree(TINY / "checkpoint", folder / "checkpoint")
    records = json.loads((TINY / "digits" / "train.json").read_text())
    (folder / "images").mkdir()
    for record in records[:24]:
        shutil.copy(TINY / "digits" / record["image"], folder / record["image"])
    (folder / "train.json").write_text(json.dumps(records[:24]))
    with (folder / "held.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("index", "image", "question", "answer", "category"))
        for number, record in enumerate(records[30:43]):
            cell = base64.b64encode((TINY / "digits" / record["image"]).read_bytes()).decode()
            table.writerow((number, cell, "Which digit is this?", str(number % 10), ""))
    data = f'sources = [{{ path = "{folder}/train.json", format = "llava", media_root = "{folder}" }}]'
    fields = {"folder": folder, "init": 'init = "random"', "data": data, "weights": f"{folder}/checkpoint"}
    plain = RECIPE.format(task="sft", name="plain", **fields) + TRAIN
    (folder / "plain.toml").write_text(plain)
    (folder / "evaluated.toml").write_text(plain + EVAL.format(folder=folder, every="every = 2"))
    return folder


def run(recipe: Path, *settings: str) -> str:
    words = [word for one in settings for word in ("--set", one)]
    command = [sys.executable, "-m", "qvl_core.cli", "run", str(recipe), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[tuple[int, str, str]]:
    return [(row["step"], row["loss"].hex(), row["gradient_norm"].hex()) for row in rows(folder) if "loss" in row]


def answers(path: Path) -> list[tuple[str, str, int]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["index"], row["prediction"], row["new_tokens"]) for row in found]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("one", ()),
        ("recomputed_adapters", ("layout.recompute=full", "train.lora.rank=4", "train.lora.dropout=0.3")),
        ("replicas", ("layout.dp=2", "layout.zero1=true")),
        ("cut", ("layout.pp=2", "layout.tp=2")),
    ],
)
def test_the_steps_are_those_of_a_run_without_it_to_the_bit(
    project: Path, name: str, settings: tuple[str, ...]
) -> None:
    with_it, without = project / f"{name}_evaluated", project / f"{name}_plain"
    output = run(project / "evaluated.toml", *settings, f"output.dir={with_it}")
    run(project / "plain.toml", *settings, f"output.dir={without}")
    assert steps(with_it) == steps(without)
    found = [row for row in rows(with_it) if "eval_accuracy_percent" in row]
    assert [row["step"] for row in found] == [2, 4, 5]
    assert all(row["eval_rows"] == 13 for row in found)
    assert "step 4: digits_test" in output
    for step in (2, 4, 5):
        assert len(answers(with_it / "evaluations" / f"step_{step:06d}.jsonl")) == 13


def test_the_last_answers_are_those_of_the_exported_weights(project: Path) -> None:
    folder = project / "exported"
    run(project / "evaluated.toml", f"output.dir={folder}")
    recipe = project / "eval.toml"
    text = RECIPE.format(task="eval", name="again", folder=project, init="", data="", weights=f"{folder}/hf")
    recipe.write_text(text + EVAL.format(folder=project, every=""))
    run(recipe)
    assert answers(folder / "evaluations" / "step_000005.jsonl") == answers(project / "again" / "predictions.jsonl")
    result = json.loads((project / "again" / "run.json").read_text())["result"]
    last = [row for row in rows(folder) if "eval_accuracy_percent" in row][-1]
    assert last["eval_accuracy_percent"] == result["accuracy_percent"]
