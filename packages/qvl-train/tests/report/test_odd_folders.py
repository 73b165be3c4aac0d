"""Folders of other programs, other versions and broken disks: whatever is in them, there is a page or a problem."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from qvl_core.errors import InputError
from qvl_train.report.diff_card import diff_card
from qvl_train.report.diff_text import diff_json
from qvl_train.report.run_diff import diff_runs
from qvl_train.report.run_history import RunHistory, open_runs
from qvl_train.report.run_page import page_body
from qvl_train.report.samples_card import SamplesCards
from run_folders import record, rows, validations, write_run

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1e308,
        -1e-308,
        2**70,
        10**400,
        "",
        "x" * 5000,
        "\udc80",
        [],
        {},
        [[]],
        [{}],
        {"a": {"b": [1]}},
    ),
    *([None, 1, {"steps": []}], {"after_step": [], "versions": [], "differences": {}}),
)


NEW = {"machine": {"host": "a", "directory": "."}, "variables": {"MS_X": "1"}, "files": {"a.json": "1" * 64}}


def show(folder: Path, whole: RunHistory, *, samples: SamplesCards | None = None) -> None:
    """Do all that the commands do with a folder; a folder that is refused is refused by a problem."""
    try:
        (run,) = open_runs([folder])
    except InputError:
        return
    page_body([run], samples=samples)
    page_body([whole, run], live=True)
    found = diff_runs(whole, run)
    diff_card(found, "a", "b")
    diff_json(found, "a", "b")


@pytest.fixture
def whole(tmp_path: Path) -> RunHistory:
    write_run(tmp_path / "whole", [*rows(range(1, 50)), *validations([10, 40])], content={**record(), **NEW})
    return open_runs([tmp_path / "whole"])[0]


@pytest.mark.parametrize("key", sorted({**record(), **NEW}))
def test_odd_values_in_the_record(tmp_path: Path, whole: RunHistory, key: str) -> None:
    for value in ODD:
        write_run(tmp_path / "odd", rows(range(1, 4)), content={**record(), **NEW, key: value})
        show(tmp_path / "odd", whole, samples=SamplesCards() if key in ("recipe", "machine") else None)


@pytest.mark.parametrize("table", ["recipe", "recipe.train", "recipe.model", "recipe.data", "versions", "hashes", *NEW])
def test_odd_values_in_its_tables(tmp_path: Path, whole: RunHistory, table: str) -> None:
    for value in ODD:
        content: Any = {**record(), **NEW}
        found = content
        for name in table.split("."):
            found[name] = dict(found[name])
            found = found[name]
        for key in list(found):
            found[key] = value
        write_run(tmp_path / "odd", rows(range(1, 4)), content=content)
        show(tmp_path / "odd", whole, samples=SamplesCards() if table in ("recipe.data", "machine") else None)


@pytest.mark.parametrize("key", sorted({*rows([1])[0], "validation_loss", "save_failed", "eval_accuracy_percent"}))
def test_odd_values_in_the_rows(tmp_path: Path, whole: RunHistory, key: str) -> None:
    for value in ODD:
        for count in (1, 3, 40):
            lines = [{**row, key: value} for row in rows(range(1, count + 1))]
            write_run(tmp_path / "odd", lines, content=record())
            show(tmp_path / "odd", whole)


@pytest.mark.parametrize("key", ["index", "question", "answer", "prediction", "score"])
def test_odd_values_in_the_answers(tmp_path: Path, whole: RunHistory, key: str) -> None:
    good = {"index": "1", "question": "q", "answer": "a", "prediction": "p", "score": 1.0}
    write_run(tmp_path / "odd", rows(range(1, 4)), content=record())
    (tmp_path / "odd" / "evaluations").mkdir()
    for value in ODD:
        lines = [json.dumps({**good, key: value}), json.dumps({**good, "index": 2})]
        (tmp_path / "odd" / "evaluations" / "step_000002.jsonl").write_text("\n".join(lines) + "\n")
        show(tmp_path / "odd", whole, samples=SamplesCards())


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
