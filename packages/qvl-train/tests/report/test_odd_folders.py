"""Folders of other programs, other versions and broken disks: whatever is in them, there is a page or a problem."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from qvl_core.errors import InputError
from qvl_train.report.diff_card import diff_card, diff_json
from qvl_train.report.run_diff import diff_runs
from qvl_train.report.run_history import RunHistory, open_runs
from qvl_train.report.run_page import page_body
from run_folders import record, rows, validations, write_run

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, -1e-308, 2**70, "", "x" * 5000, "\udc80", [], {}, [[]], [{}], {"a": {"b": [1]}}),
    *([None, 1, {"steps": []}], {"after_step": [], "versions": [], "differences": {}}),
)


def show(folder: Path, whole: RunHistory) -> None:
    """Do all that the commands do with a folder; a folder that is refused is refused by a problem."""
    try:
        (run,) = open_runs([folder])
    except InputError:
        return
    page_body([run])
    page_body([whole, run], live=True)
    found = diff_runs(whole.facts, run.facts, whole.metrics, run.metrics)
    diff_card(found, "a", "b")
    diff_json(found, "a", "b")


@pytest.fixture
def whole(tmp_path: Path) -> RunHistory:
    write_run(tmp_path / "whole", [*rows(range(1, 50)), *validations([10, 40])], content=record())
    return open_runs([tmp_path / "whole"])[0]


@pytest.mark.parametrize("key", sorted(record()))
def test_odd_values_in_the_record(tmp_path: Path, whole: RunHistory, key: str) -> None:
    for value in ODD:
        write_run(tmp_path / "odd", rows(range(1, 4)), content={**record(), key: value})
        show(tmp_path / "odd", whole)


@pytest.mark.parametrize("table", ["recipe", "recipe.train", "recipe.model", "versions", "hashes"])
def test_odd_values_in_its_tables(tmp_path: Path, whole: RunHistory, table: str) -> None:
    for value in ODD:
        content: Any = record()
        found = content
        for name in table.split("."):
            found[name] = dict(found[name])
            found = found[name]
        for key in list(found):
            found[key] = value
        write_run(tmp_path / "odd", rows(range(1, 4)), content=content)
        show(tmp_path / "odd", whole)


@pytest.mark.parametrize("key", sorted({*rows([1])[0], "validation_loss", "save_failed", "eval_accuracy_percent"}))
def test_odd_values_in_the_rows(tmp_path: Path, whole: RunHistory, key: str) -> None:
    for value in ODD:
        for count in (1, 3, 40):
            lines = [{**row, key: value} for row in rows(range(1, count + 1))]
            write_run(tmp_path / "odd", lines, content=record())
            show(tmp_path / "odd", whole)


def test_bytes_changed_anywhere(tmp_path: Path, whole: RunHistory) -> None:
    chance = random.Random(7)
    for name in ("run.json", "metrics.jsonl"):
        folder = write_run(tmp_path / name, [*rows(range(1, 8)), *validations([4])], content=record(), memory=[1.0])
        good = (folder / name).read_bytes()
        for _ in range(100):
            bad = bytearray(good)
            for _ in range(chance.randint(1, 20)):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            (folder / name).write_bytes(bad[: chance.randint(0, len(bad))])
            show(folder, whole)


@pytest.mark.parametrize("first", [0, 1, 2**61])
def test_steps_of_any_size(tmp_path: Path, whole: RunHistory, first: int) -> None:
    lines = [
        {"step": first + at, "loss": 1.0, "samples": 4, "step_time_s": 0.0, "tokens_per_s": 0.0} for at in range(5)
    ]
    write_run(tmp_path / "odd", lines, content=record())
    show(tmp_path / "odd", whole)
