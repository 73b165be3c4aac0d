"""The sample at a place of an item, or the one that stands in for it where it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.errors import DataError, Problem, QvlError, RunError

from qvl_data.batching.bad_samples import StopError, TooLongError, UncertainError, Unusable, reason_of
from qvl_data.batching.item_source import ItemSource
from qvl_data.batching.worker_threads import Watch
from qvl_data.media.error import MediaError
from qvl_data.order.items import Item
from qvl_data.samples import Sample


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of one place of an item; None where nothing that fits can be used. `met` is what could not be."""

    sample: Sample | None
    met: tuple[Unusable, ...]


class SampleMaker:
    """Makes samples in threads. What is made depends on the item and the place only."""

    def __init__(self, source: ItemSource, *, skips: bool, is_alone: bool = True) -> None:
        """`skips`: a bad sample is replaced, else its error is raised; a too long one is replaced either way.

        Where other processes have to see the same samples (not `is_alone`), what failed by chance is not skipped.
        """
        self._source = source
        self._skips = skips
        self._is_alone = is_alone

    def make(self, item: Item, place: int, watch: Watch) -> Made:
        """Make the sample at a place of an item, or one that stands in for it."""
        met: list[Unusable] = []
        tried: set[int] = set()
        number: int | None = item.samples[place]
        # Streamed rows are read from the disk before their line is known.
        watch.begin(f"the sample at position {item.position:,} of the order")
        attempt = 0
        while number is not None:
            if number not in tried:
                tried.add(number)
                where = self._source.where(number)
                watch.begin(where)
                try:
                    return Made(sample=self._source.sample(number), met=tuple(met))
                except Exception as error:
                    met.append(self._unusable(where, error))
            number = self._source.order.substitute(item, place, attempt)
            attempt += 1
        return Made(sample=None, met=tuple(met))

    def _unusable(self, where: str, error: Exception) -> Unusable:
        """Say why a sample is left out, or raise what is not to be passed over."""
        if isinstance(error, TooLongError):
            return Unusable(where=where, reason=reason_of(error), kind="too_long")
        if isinstance(error, DataError | MediaError):
            if not self._skips or isinstance(error, StopError):
                raise error
            if isinstance(error, UncertainError) and not self._is_alone:
                message = "it is not skipped: other processes may have read it, and all have to see the same samples"
                raise DataError([*error.problems, Problem(where=where, message=message)])
            return Unusable(where=where, reason=reason_of(error), kind="bad")
        if isinstance(error, QvlError):
            raise error
        raise RunError(f"{where}: the sample cannot be made: {type(error).__name__}: {error}") from error
