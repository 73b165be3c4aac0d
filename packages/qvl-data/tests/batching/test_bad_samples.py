"""A sample that cannot be used is replaced by one that all agree on, told once, and too many are an error."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from data_files import llava, save_image, write_records
from qvl_core.batch import IGNORE
from qvl_core.errors import DataError
from qvl_data import batches, count_validation_batches, prepare, validation_batches
from qvl_data.batching.bad_samples import BadSamples, Unusable
from taken_steps import ids, take


def break_images(data_file: Path, *numbers: int) -> None:
    for number in numbers:
        save_image(data_file.parent / f"{number}.png", 10, 10, seed=99)


@pytest.mark.parametrize("packing", [False, True])
def test_a_bad_sample_is_replaced_the_same_for_any_workers_and_ranks(
    make_recipe: Callable[..., Any], data_file: Path, packing: bool
) -> None:
    settings: dict[str, Any] = {"packing": packing, "on_bad_sample": "skip", "sequence_length": 200}
    recipe = make_recipe([data_file], global_batch=4, **settings)
    data = prepare(recipe)
    before = ids(take(data, recipe, 6))
    break_images(data_file, 0, 4)
    found = {}
    for workers in (0, 1, 3):
        found[workers] = ids(take(data, make_recipe([data_file], global_batch=4, workers=workers, **settings), 6))
    assert found[0] == found[1] == found[3]
    ranks = [ids(take(data, recipe, 6, dp_rank=rank, dp_size=2)) for rank in range(2)]
    woven = [[micro for pair in zip(*step, strict=True) for micro in pair] for step in zip(*ranks, strict=True)]
    assert woven == found[0]
    broken = {f"{data_file}:2", f"{data_file}:6"}
    assert not broken & {name for step in found[0] for group in step for name in group}
    for was, now in zip(before, found[0], strict=True):
        for old, new in zip(was, now, strict=True):
            # What was good stays in its place, also beside a bad sample in a pack.
            assert len(old) == len(new)
            assert all(a == b or a in broken for a, b in zip(old, new, strict=True))


def test_each_bad_sample_is_told_once_with_file_line_and_reason(
    make_recipe: Callable[..., Any], data_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe([data_file], on_bad_sample="skip", global_batch=5)
    data = prepare(recipe)
    break_images(data_file, 0, 4)
    told: list[Unusable] = []
    bad = BadSamples(policy="skip", limit=100, tell=told.append)
    with batches(data, recipe=recipe, bad_samples=bad) as steps:
        list(islice(steps, 6))
    assert sorted(one.where for one in told) == [f"{data_file}:2", f"{data_file}:6"]
    assert all("changed after it had been checked" in one.reason for one in told)
    assert bad.bad == 2
    assert [record.name for record in caplog.records] == ["qvl_data"] * 2
    assert "bad samples left out: 2" in bad.lines()[0]


def test_one_bad_sample_more_than_the_limit_stops_and_names_the_last_ones(
    make_recipe: Callable[..., Any], data_file: Path
) -> None:
    recipe = make_recipe([data_file], on_bad_sample="skip", max_bad_samples=2, global_batch=5)
    data = prepare(recipe)
    break_images(data_file, 0, 1, 3)
    with pytest.raises(DataError) as error, batches(data, recipe=recipe) as steps:
        list(islice(steps, 3))
    text = str(error.value)
    assert "bad sample number 3 of this replica; the limit is 2" in text
    assert all(f"{data_file}:{line}\n" in text for line in (2, 3, 5))


def test_a_source_without_any_usable_sample_is_an_error_not_an_endless_search(
    make_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    save_image(tmp_path / "a.png")
    path = write_records(tmp_path / "train.json", [llava("<image>?", "a", "a.png")])
    recipe = make_recipe([path], on_bad_sample="skip", global_batch=1)
    data = prepare(recipe)
    save_image(tmp_path / "a.png", 10, 10, seed=9)
    with pytest.raises(DataError, match=r"nor can any that may stand in for it"), batches(data, recipe=recipe) as steps:
        next(steps)


def test_a_bad_validation_sample_is_skipped_without_labels(make_recipe: Callable[..., Any], data_file: Path) -> None:
    recipe = make_recipe([data_file], validation={"fraction": 0.9}, on_bad_sample="skip")
    data = prepare(recipe)
    assert data.validation is not None
    held = [data.validation.where(i) for i in range(9)]
    # The pictures of the records on lines 2, 3, 5, ... are 0.png, 1.png, 3.png, ...
    line = next(int(name.rsplit(":", 1)[1]) for name in held if data.validation.sample(held.index(name)).grids.size)
    break_images(data_file, line - 2)
    found = list(validation_batches(data, recipe=recipe))
    assert len(found) == count_validation_batches(data, recipe=recipe) == 9
    learned = [name for batch in found for name in batch.sample_ids if (batch.labels != IGNORE).any()]
    assert sorted(learned) == sorted(name for name in held if name != f"{data_file}:{line}")
