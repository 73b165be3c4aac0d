"""Seconds of the parts of a model, and of stages put together from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from qvl_core.planner.stage_shape import StageShape


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What a piece of work takes: computing, starting its operations on the host, and communication."""

    compute: float = 0.0
    starting: float = 0.0
    communication: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            compute=self.compute + other.compute,
            starting=self.starting + other.starting,
            communication=self.communication + other.communication,
        )

    def __mul__(self, factor: float) -> Seconds:
        """Give so many times as much."""
        return Seconds(
            compute=self.compute * factor,
            starting=self.starting * factor,
            communication=self.communication * factor,
        )

    @property
    def total(self) -> float:
        """Give the sum: nothing is overlapped."""
        return self.compute + self.starting + self.communication


# A stage is added up of Seconds, or where their sum is enough, of numbers: the search looks at thousands.
Time = TypeVar("Time", Seconds, float)


@dataclass(frozen=True, kw_only=True)
class PartSeconds(Generic[Time]):
    """A part's forward, what of it runs again for the tape, and its backward."""

    ahead: Time
    again: Time
    back: Time
    works_back: bool


@dataclass(frozen=True, kw_only=True)
class PartTable(Generic[Time]):
    """What a stage is added up of."""

    nothing: Time
    patch_embed: PartSeconds[Time]
    vision: PartSeconds[Time]
    merger: PartSeconds[Time]
    text: PartSeconds[Time]
    head: PartSeconds[Time]
    lookup: Time
    hand_over: Time
    accumulate: Time

    def of_stage(self, shape: StageShape, trained: int, *, is_first: bool, is_last: bool) -> tuple[Time, Time]:
        """Give forward and backward of a stage of a training; without a tape `again` is nothing."""
        forward = again = backward = self.nothing
        works_back = trained > 0
        for count, part in (
            (shape.patch_embed and shape.vision > 0, self.patch_embed),
            (shape.vision, self.vision),
            (shape.merger and shape.vision > 0, self.merger),
            (shape.text, self.text),
            (shape.head, self.head),
        ):
            if not count:
                continue
            forward = forward + part.ahead * count
            backward = backward + part.back * count
            again = again + part.again * count
            works_back = works_back or part.works_back
        if shape.embeds:
            forward = forward + self.lookup
        if works_back and not is_last:
            backward = backward + again
        backward = backward + self.accumulate * trained
        if not is_first:
            forward = forward + self.hand_over
        if not is_last and works_back:
            backward = backward + self.hand_over
        return forward, backward


def totals(table: PartTable[Seconds]) -> PartTable[float]:
    """Give the same with all that a part takes added up."""

    def part(of: PartSeconds[Seconds]) -> PartSeconds[float]:
        return PartSeconds(ahead=of.ahead.total, again=of.again.total, back=of.back.total, works_back=of.works_back)

    return PartTable(
        nothing=0.0,
        patch_embed=part(table.patch_embed),
        vision=part(table.vision),
        merger=part(table.merger),
        text=part(table.text),
        head=part(table.head),
        lookup=table.lookup.total,
        hand_over=table.hand_over.total,
        accumulate=table.accumulate.total,
    )
