"""Where every usable sample stands and how long it is: numpy columns, no text. A sample is read again when it is used.

Legend: N samples, M media, D digest bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_data.media.facts import MediaFile, facts_from_row
from qvl_data.media.images import ImageFacts
from qvl_data.media.video_facts import VideoFacts


@dataclass(frozen=True, kw_only=True, eq=False)
class MediaTable:
    """The media of an index, each file once for each way in which records write its path.

    Those of records that were dropped are in it too: another picture under the same name might fit.
    """

    source: NDArray[np.int32]  # [M]
    written: NDArray[np.object_]  # [M] str
    path: NDArray[np.object_]  # [M] str
    size: NDArray[np.int64]  # [M] bytes
    mtime_ns: NDArray[np.int64]  # [M]
    height: NDArray[np.int64]  # [M] pixels
    width: NDArray[np.int64]  # [M] pixels
    digest: NDArray[np.object_]  # [M] str, sha256
    frames: NDArray[np.int64]  # [M] 0 for an image
    fps: NDArray[np.float64]  # [M]
    is_variable: NDArray[np.bool_]  # [M]
    duration_s: NDArray[np.float64]  # [M]
    is_counted: NDArray[np.bool_]  # [M]

    def __len__(self) -> int:
        return len(self.path)

    def is_video(self) -> NDArray[np.bool_]:
        """Mark the videos, bool [M]."""
        return self.frames > 0

    def file(self, number: int) -> MediaFile:
        """Give one medium as the check found it."""
        facts: ImageFacts | VideoFacts
        size = {"height": int(self.height[number]), "width": int(self.width[number])}
        if self.frames[number]:
            facts = VideoFacts(
                **size,
                digest=self.digest[number],
                frames=int(self.frames[number]),
                fps=float(self.fps[number]),
                is_variable=bool(self.is_variable[number]),
                duration_s=float(self.duration_s[number]),
                is_counted=bool(self.is_counted[number]),
            )
        else:
            facts = ImageFacts(**size, digest=self.digest[number])
        return MediaFile(
            kind="video" if self.frames[number] else "image",
            written=self.written[number],
            path=Path(self.path[number]),
            facts=facts,
            size=int(self.size[number]),
            mtime_ns=int(self.mtime_ns[number]),
        )

    def files(self) -> Iterator[MediaFile]:
        """Give all of them."""
        return (self.file(number) for number in range(len(self)))


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleTable:
    """The usable samples of all sources, in the order of sources, files and records."""

    source: NDArray[np.int32]  # [N]
    file: NDArray[np.int32]  # [N]
    offset: NDArray[np.int64]  # [N] as Place has it
    size: NDArray[np.int64]  # [N]
    line: NDArray[np.int64]  # [N]
    number: NDArray[np.int64]  # [N] of the record in its file, from 0
    shares_line: NDArray[np.bool_]  # [N]
    tokens: NDArray[np.int64]  # [N]
    text_tokens: NDArray[np.int64]  # [N]
    max_pixels: NDArray[np.int64]  # [N] 0 where the media are not shrunk
    digest: NDArray[np.uint8]  # [N, D] of the record
    media_end: NDArray[np.int64]  # [N] in media_numbers, where the next sample's begin
    media_numbers: NDArray[np.int32]  # all samples' media, one after another

    def __len__(self) -> int:
        return len(self.tokens)

    def media_of(self, index: int) -> NDArray[np.int32]:
        """Give the numbers of the media of one sample, in order."""
        start = self.media_end[index - 1] if index else 0
        return self.media_numbers[start : self.media_end[index]]

    def media_counts(self) -> NDArray[np.int64]:
        """Count the media of each sample, int64 [N]."""
        return np.diff(self.media_end, prepend=0)


class TableBuilder:
    """Gathers the rows that the survey gives, and makes the two tables of them."""

    def __init__(self) -> None:
        self._samples: dict[str, list[NDArray[Any]]] = {}
        self._media: dict[tuple[int, str, str], int] = {}
        self._media_rows: list[list[Any]] = []
        self._media_end = 0

    def add(self, columns: Mapping[str, NDArray[Any]], media: list[list[Any]], numbers: NDArray[np.int64]) -> None:
        """Add samples. `numbers` are the media of each, one after another, as indexes into `media`.

        A media row is [source, written, path, size, mtime_ns, facts row].
        """
        known = np.array([self._number(row) for row in media], np.int32)
        counts = columns["media_count"]
        added = {name: column for name, column in columns.items() if name != "media_count"}
        added["media_end"] = self._media_end + np.cumsum(counts)
        added["media_numbers"] = known[numbers] if len(numbers) else np.zeros(0, np.int32)
        self._media_end += int(counts.sum())
        for name, column in added.items():
            self._samples.setdefault(name, []).append(column)

    def add_media(self, media: list[list[Any]]) -> None:
        """Add media that no sample uses: they were looked at, and what became of a record depends on them."""
        for row in media:
            self._number(row)

    def _number(self, row: list[Any]) -> int:
        key = (row[0], row[1], row[2])
        if key not in self._media:
            self._media[key] = len(self._media_rows)
            self._media_rows.append(row)
        return self._media[key]

    def samples(self) -> SampleTable:
        """Give the samples."""
        types = {"digest": np.uint8, "shares_line": np.bool_, "source": np.int32, "file": np.int32}
        types["media_numbers"] = np.int32
        columns = {}
        for field in fields(SampleTable):
            empty = np.zeros((0, 16) if field.name == "digest" else 0, types.get(field.name, np.int64))
            parts = self._samples.get(field.name, [])
            columns[field.name] = np.concatenate([empty, *parts]).astype(empty.dtype)
        return SampleTable(**columns)

    def media(self) -> MediaTable:
        """Give the media."""
        rows = self._media_rows
        facts = [facts_from_row(row[5]) for row in rows]
        video = [one if isinstance(one, VideoFacts) else None for one in facts]
        return MediaTable(
            source=np.array([row[0] for row in rows], np.int32),
            written=_texts([row[1] for row in rows]),
            path=_texts([row[2] for row in rows]),
            size=np.array([row[3] for row in rows], np.int64),
            mtime_ns=np.array([row[4] for row in rows], np.int64),
            height=np.array([one.height for one in facts], np.int64),
            width=np.array([one.width for one in facts], np.int64),
            digest=_texts([one.digest for one in facts]),
            frames=np.array([one.frames if one else 0 for one in video], np.int64),
            fps=np.array([one.fps if one else 0.0 for one in video], np.float64),
            is_variable=np.array([bool(one and one.is_variable) for one in video], np.bool_),
            duration_s=np.array([one.duration_s if one else 0.0 for one in video], np.float64),
            is_counted=np.array([bool(one and one.is_counted) for one in video], np.bool_),
        )


def content_hash(samples: SampleTable, media: MediaTable, file_digests: Mapping[int, list[str]]) -> str:
    """Hash what samples are made of: each source's files, and the names and contents of its media.

    Names are those of the records, so that a folder that was moved keeps its hash.
    """
    total = hashlib.sha256()
    used = np.unique(samples.media_numbers)
    for source, digests in sorted(file_digests.items()):
        for digest in digests:
            total.update(f"source {digest}\n".encode())
        of_source = used[media.source[used] == source]
        for written, digest in sorted((media.written[number], media.digest[number]) for number in of_source):
            total.update(f"{digest} {written}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _texts(values: list[str]) -> NDArray[np.object_]:
    found = np.empty(len(values), object)
    found[:] = values
    return found
