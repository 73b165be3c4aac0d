"""What is known of a media file once it has been checked, and how it is kept between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from qvl_data.media.images import ImageFacts
from qvl_data.media.video_facts import VideoFacts
from qvl_data.records.record import MediaKind

MediaFacts: TypeAlias = ImageFacts | VideoFacts


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """A medium of a record: its path as the record writes it, the file that this means, and what the check found.

    `size` and `mtime_ns` are those of the file when it was checked.
    """

    kind: MediaKind
    written: str
    path: Path
    facts: MediaFacts
    size: int
    mtime_ns: int


def facts_to_row(facts: MediaFacts) -> list[Any]:
    """Give facts as JSON values; `facts_from_row` is the inverse."""
    kind = "image" if isinstance(facts, ImageFacts) else "video"
    return [kind, *(getattr(facts, field.name) for field in fields(facts))]


def facts_from_row(row: Sequence[Any]) -> MediaFacts:
    """Give the facts of `facts_to_row`. Raises ValueError for anything else."""
    kind, *values = row
    types = {"image": ImageFacts, "video": VideoFacts}
    if kind not in types or len(values) != len(fields(types[kind])):
        raise ValueError(f"{row!r} are not the facts of a medium")
    facts: MediaFacts = types[kind](
        **{field.name: value for field, value in zip(fields(types[kind]), values, strict=True)}
    )
    return facts
