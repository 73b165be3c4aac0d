"""The batches of a run depend on seed and position only: not on workers, not on the number of ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import save_image
from qvl_core.batch import IGNORE
from qvl_core.errors import DataError, RunError
from qvl_data import batches, count_validation_batches, prepare, validation_batches
from qvl_data.dataset import Dataset
from taken_steps import ids, learned_ids, take


@pytest.fixture
def threads_before(monkeypatch: pytest.MonkeyPatch) -> set[threading.Thread]:
    """Give the threads of before. Those of the test are waited for, however long a busy machine lets them work."""
    monkeypatch.setattr("qvl_data.batching.worker_threads._PATIENCE_S", 300.0)
    return set(threading.enumerate())


def test_same_batches_for_any_number_of_workers(make_recipe: Callable[..., Any], data_file: Path) -> None:
    found = []
    for workers in (0, 1, 3):
        recipe = make_recipe([data_file], workers=workers, micro_batch=2, global_batch=4)
        found.append(take(prepare(recipe), recipe, 6))
    for other in found[1:]:
        assert ids(other) == ids(found[0])
        for step, same in zip(found[0], other, strict=True):
            for batch, twin in zip(step, same, strict=True):
                np.testing.assert_array_equal(batch.patches, twin.patches)
                np.testing.assert_array_equal(batch.labels, twin.labels)


def test_consumed_samples_is_the_whole_state(make_recipe: Callable[..., Any], data_file: Path) -> None:
    recipe = make_recipe([data_file], micro_batch=1, global_batch=4)
    data = prepare(recipe)
    whole = ids(take(data, recipe, 9))
    for step in (1, 2, 5, 7):
        assert ids(take(data, recipe, 2, consumed_samples=4 * step)) == whole[step : step + 2]


def test_an_epoch_uses_every_sample_once_also_across_steps(make_recipe: Callable[..., Any], data_file: Path) -> None:
    recipe = make_recipe([data_file], micro_batch=1, global_batch=4)
    data = prepare(recipe)
    used = [name for step in take(data, recipe, 5) for batch in step for name in batch.sample_ids]
    assert len(set(used[:10])) == 10
    assert sorted(used[:10]) == sorted(used[10:])
    assert used[:10] != used[10:]


def test_ranks_share_a_step_and_the_step_is_the_same_for_any_number_of_ranks(
    make_recipe: Callable[..., Any], data_file: Path
) -> None:
    recipe = make_recipe([data_file], micro_batch=1, global_batch=4)
    data = prepare(recipe)
    alone = ids(take(data, recipe, 3))
    for dp_size in (2, 4):
        ranks = [ids(take(data, recipe, 3, dp_rank=rank, dp_size=dp_size)) for rank in range(dp_size)]
        for number in range(3):
            woven = [micro for group in zip(*(rank[number] for rank in ranks), strict=True) for micro in group]
            assert woven == alone[number]


def test_seed_changes_the_order(make_recipe: Callable[..., Any], data_file: Path) -> None:
    found = []
    for seed in (1, 2):
        recipe = make_recipe([data_file], seed=seed, global_batch=4)
        found.append(ids(take(prepare(recipe), recipe, 3)))
    assert found[0] != found[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_changed_image_stops_with_its_record_and_leaves_no_thread(
    make_recipe: Callable[..., Any], data_file: Path, workers: int, threads_before: set[threading.Thread]
) -> None:
    recipe = make_recipe([data_file], workers=workers, global_batch=4)
    data = prepare(recipe)
    save_image(data_file.parent / "3.png", 10, 10, seed=99)
    with pytest.raises(DataError, match=f"{data_file}:5"), batches(data, recipe=recipe) as steps:
        list(islice(steps, 3))
    assert set(threading.enumerate()) <= threads_before


@pytest.mark.parametrize("workers", [0, 2])
def test_our_own_bug_names_the_sample(
    make_recipe: Callable[..., Any], data_file: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([data_file], workers=workers)
    data = prepare(recipe)

    def broken(self: Dataset, index: int) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Dataset, "sample", broken)
    with pytest.raises(RunError, match=f"{data_file}:.*ZeroDivisionError: oops"), batches(data, recipe=recipe) as steps:
        next(steps)


def test_close_stops_the_threads_and_the_iterator(
    make_recipe: Callable[..., Any], data_file: Path, threads_before: set[threading.Thread]
) -> None:
    recipe = make_recipe([data_file], workers=3)
    steps = batches(prepare(recipe), recipe=recipe)
    next(steps)
    steps.close()
    steps.close()
    assert set(threading.enumerate()) <= threads_before
    assert list(steps) == []


def test_validation_comes_once_in_file_order(make_recipe: Callable[..., Any], data_file: Path) -> None:
    recipe = make_recipe([data_file], validation={"fraction": 0.5}, micro_batch=2)
    data = prepare(recipe)
    assert data.validation is not None
    found = [name for batch in validation_batches(data, recipe=recipe) for name in batch.sample_ids]
    assert found == [data.validation.where(index) for index in range(len(data.validation))]


def test_validation_ranks_get_equally_many_and_repeats_carry_no_labels(
    make_recipe: Callable[..., Any], data_file: Path
) -> None:
    recipe = make_recipe([data_file], validation={"fraction": 0.5}, micro_batch=1)
    data = prepare(recipe)
    ranks = [list(validation_batches(data, recipe=recipe, dp_rank=rank, dp_size=3)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [2, 2, 2]
    labelled = [batch.sample_ids for rank in ranks for batch in rank if (batch.labels != IGNORE).any()]
    assert len(labelled) == len(set(labelled)) == 5


def test_validation_may_be_left_half_way(
    make_recipe: Callable[..., Any], data_file: Path, threads_before: set[threading.Thread]
) -> None:
    recipe = make_recipe([data_file], validation={"fraction": 0.5})
    steps = validation_batches(prepare(recipe), recipe=recipe)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= threads_before


def test_no_validation_is_no_batch(make_recipe: Callable[..., Any], data_file: Path) -> None:
    recipe = make_recipe([data_file])
    assert list(validation_batches(prepare(recipe), recipe=recipe)) == []


@pytest.mark.parametrize(("micro_batch", "dp_size"), [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (10, 4)])
def test_the_count_of_validation_batches_is_what_each_rank_gets(
    make_recipe: Callable[..., Any], data_file: Path, micro_batch: int, dp_size: int
) -> None:
    recipe = make_recipe([data_file], validation={"fraction": 0.5}, micro_batch=micro_batch)
    data = prepare(recipe)
    for rank in range(dp_size):
        batches_of_rank = list(validation_batches(data, recipe=recipe, dp_rank=rank, dp_size=dp_size))
        assert len(batches_of_rank) == count_validation_batches(data, recipe=recipe, dp_size=dp_size)


def test_packs_use_every_sample_once_an_epoch_and_never_exceed_the_length(
    make_recipe: Callable[..., Any], data_file: Path
) -> None:
    recipe = make_recipe([data_file], packing=True, sequence_length=150, global_batch=1)
    data = prepare(recipe)
    steps = take(data, recipe, 2 * data.report.epoch_length)
    assert data.report.epoch_length < 10
    assert f"{data.report.epoch_length} packs of at most 150 tokens an epoch" in data.report.lines()
    assert all(batch.tokens <= 150 for step in steps for batch in step)
    for epoch in (steps[: data.report.epoch_length], steps[data.report.epoch_length :]):
        assert sorted(learned_ids(epoch)) == sorted(data.train.where(i) for i in range(10))


def test_balance_keeps_the_samples_of_a_step_and_the_micro_batches_for_any_ranks(
    make_recipe: Callable[..., Any], data_file: Path
) -> None:
    plain = make_recipe([data_file], micro_batch=2, global_batch=8)
    recipe = make_recipe([data_file], micro_batch=2, global_batch=8, balance="length")
    data = prepare(recipe)
    as_they_come = ids(take(data, plain, 3))
    alone = ids(take(data, recipe, 3))
    ranks = [ids(take(data, recipe, 3, dp_rank=rank, dp_size=2)) for rank in range(2)]
    for number in range(3):
        assert sorted(sum(as_they_come[number], ())) == sorted(sum(alone[number], ()))
        assert sorted(alone[number]) == sorted(ranks[0][number] + ranks[1][number])
    assert alone != as_they_come
