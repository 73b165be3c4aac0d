"""Where a batch iterator gets its items and samples from: an indexed data set, held-out samples, or a stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from qvl_core.batch import IGNORE
from qvl_core.specs.model_spec import ModelSpec

from qvl_data.batching.bad_samples import Unusable
from qvl_data.order.items import Item, ItemOrder, PackItems, SampleItems
from qvl_data.samples import Sample

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

    from qvl_data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class TakenItem:
    """An item on its way into a micro batch. `met` is what was found unusable when it was chosen."""

    item: Item
    met: tuple[Unusable, ...] = ()
    is_learned: bool = True
    stands_in_unlearned: bool = False

    def stand_in(self, sample: Sample) -> Sample:
        """Give a substitute as it takes part: a validation loss must not count another sample twice."""
        return replace(sample, labels=np.full_like(sample.labels, IGNORE)) if self.stands_in_unlearned else sample


class ItemSource(Protocol):
    """Items by position, samples by number. `sample` and `where` are called by several threads."""

    @property
    def order(self) -> ItemOrder:
        """Which item is used when."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """The model's shape, which a micro batch is made for."""
        ...

    def take(self, position: int, count: int) -> list[TakenItem]:
        """Give the items at `count` positions from `position` on."""
        ...

    def sample(self, number: int) -> Sample:
        """Make a sample. Raises DataError if it cannot be used, TooLongError if it is to be left out."""
        ...

    def where(self, number: int) -> str:
        """Give file and line of a sample."""
        ...

    def close(self) -> None:
        """Let go of files and threads."""
        ...


class IndexedItems:
    """The samples of an indexed data set in an order of items."""

    def __init__(self, dataset: Dataset, order: ItemOrder) -> None:
        self._dataset = dataset
        self.order = order
        self.spec = dataset.processor.spec

    def take(self, position: int, count: int) -> list[TakenItem]:
        """Give the items at `count` positions from `position` on."""
        return [TakenItem(item=item) for item in self.order.items(position, count)]

    def sample(self, number: int) -> Sample:
        """Make a sample. Raises DataError if it cannot be used."""
        return self._dataset.sample(number)

    def where(self, number: int) -> str:
        """Give file and line of a sample."""
        return self._dataset.where(number)

    def close(self) -> None:
        """Do nothing: each sample opens and closes its files."""


class ValidationItems(IndexedItems):
    """Held-out samples in file order, each once."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset, FileOrder(len(dataset)))


@dataclass(frozen=True)
class FileOrder:
    """Samples one after another. The next in line, around the end, stands in for one that cannot be used."""

    epoch_length: int

    def items(self, position: int, count: int) -> list[Item]:
        """Give `count` samples from number `position` on; their lengths do not matter."""
        return [Item(position=i, samples=(i,), lengths=()) for i in range(position, position + count)]

    def substitute(self, item: Item, place: int, attempt: int) -> int | None:
        """Give the next sample; None when all were tried."""
        return (item.position + attempt + 1) % self.epoch_length if attempt + 1 < self.epoch_length else None


def indexed_items(dataset: Dataset, recipe: Recipe) -> ItemSource:
    """Give what training takes of an indexed data set, in its order, which the recipe's seed decides alone."""
    assert recipe.train is not None, "only training takes items without end"
    seed = recipe.train.seed
    order: ItemOrder
    if recipe.data.packing:
        order = PackItems(
            counts=dataset.counts,
            weights=dataset.weights,
            lengths=dataset.lengths,
            capacity=recipe.data.sequence_length,
            seed=seed,
        )
    else:
        order = SampleItems(counts=dataset.counts, weights=dataset.weights, lengths=dataset.lengths, seed=seed)
    return IndexedItems(dataset, order)
