"""Steps of a run, as the tests compare them: the names of the samples in each micro batch."""

from __future__ import annotations

from itertools import islice
from typing import Any

from qvl_core.batch import Batch
from qvl_data import batches


def ids(steps: list[list[Batch]]) -> list[list[tuple[str, ...]]]:
    return [[batch.sample_ids for batch in step] for step in steps]


def take(data: Any, recipe: Any, count: int, **where: int) -> list[list[Batch]]:
    with batches(data, recipe=recipe, **where) as steps:
        return list(islice(steps, count))


def learned_ids(steps: list[list[Batch]]) -> list[str]:
    return [name for step in steps for batch in step for name in batch.sample_ids]
