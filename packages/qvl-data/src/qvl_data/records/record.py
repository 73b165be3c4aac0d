"""One conversation in the form that every format is read into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
MediaKind = Literal["image", "video"]
Frame = Literal["original", "norm1000", "resized"]
RegionKind = Literal["box", "point"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: texts with media between them, so len(texts) == len(media) + 1. Texts may be empty."""

    role: Role
    texts: tuple[str, ...]
    media: tuple[MediaKind, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.texts) == len(self.media) + 1, f"{len(self.texts)} texts around {len(self.media)} media"


@dataclass(frozen=True, kw_only=True)
class Medium:
    """An image or video of a record, as the record writes its path."""

    kind: MediaKind
    written: str


@dataclass(frozen=True, kw_only=True)
class Region:
    """A box (x1, y1, x2, y2) or a point (x, y) on medium number `medium` of the record, in the record's frame."""

    kind: RegionKind
    values: tuple[float, ...]
    medium: int = 0

    def __post_init__(self) -> None:
        assert len(self.values) == (4 if self.kind == "box" else 2), self.values


@dataclass(frozen=True, kw_only=True)
class Record:
    """One conversation that passed every check that needs no media. `where` (see Element) names the sample.

    `media` come in the order in which the turns show them. Each marker `<box>` and `<point>` in the turns' texts stands
    for the next region of its kind; a record without regions has no such markers, only texts that look like them.
    """

    where: str
    turns: tuple[Turn, ...]
    media: tuple[Medium, ...] = ()
    regions: tuple[Region, ...] = ()
    frame: Frame = "original"
