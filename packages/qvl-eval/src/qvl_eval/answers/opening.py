"""The recipe's model ready to answer: in this process, or in the processes of a layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qvl_eval.answers.job import Scheduler
from qvl_eval.answers.model import answering_options, load_model, note_weights, open_for_answers, processor_of

if TYPE_CHECKING:
    from qvl_core.generate import GenerationOptions
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import StartWorkers
    from qvl_data.processor import Processor

    from qvl_eval.answers.workers import Workers


class AnsweringModel(Protocol):
    """A model as everybody here asks it."""

    @property
    def processor(self) -> Processor: ...
    @property
    def options(self) -> GenerationOptions: ...
    @property
    def replicas(self) -> int:
        """Count the copies of the model that answer beside each other, each with slots of its own."""
        ...

    def scheduler(self, *, slots: int, max_tokens: int) -> Scheduler:
        """Give a scheduler with so many slots and tokens on each replica."""
        ...

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have this called, in another thread, when processes that hold the model have ended."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RankModel:
    """A model that is cut over processes."""

    workers: Workers
    processor: Processor
    options: GenerationOptions
    replicas: int

    def scheduler(self, *, slots: int, max_tokens: int) -> Scheduler:
        """Give a scheduler; it takes the place of one before."""
        from qvl_eval.answers.remote_scheduler import RemoteScheduler

        window = self.processor.spec.text.max_position_embeddings
        return RemoteScheduler(self.workers, slots=slots, max_tokens=max_tokens, window=window)

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have this called when a worker has failed, or all have left."""
        self.workers.when_ended(call)


@contextlib.contextmanager
def open_model(recipe: Recipe, start_workers: StartWorkers | None = None) -> Iterator[AnsweringModel]:
    """Load processor and model; processes that hold the model end with the block.

    `start_workers` is there where the layout has several processes. Raises WeightsError, NotInstalledError, and the
    launcher's error, within the block too, where a worker fails.
    """
    if recipe.parallel.world_size == 1:
        yield load_model(recipe)
        return
    assert start_workers is not None, "the command line says how to start workers"
    from qvl_eval.answers.workers import Workers

    weights = open_for_answers(recipe)
    # Before the workers: a broken tokenizer or processor is told in a second, not after the weights are read.
    processor = processor_of(recipe, weights)
    options = answering_options(recipe, weights)
    note_weights(recipe)
    with Workers(start_workers) as workers:
        yield RankModel(workers=workers, processor=processor, options=options, replicas=recipe.parallel.dp)
