"""The first records of a run's sources, to look at: read as the run's recipe says, bounded, and nothing checked.

What is shown are records, not samples: no tokenizer is loaded, nothing is counted. Of videos three frames are decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError
from qvl_core.input_file import printable, read_regular_file
from qvl_core.recipe.sections import SourceSection

from qvl_data.inspection.examples import chosen_turns, excerpt
from qvl_data.inspection.picture_room import PictureRoom
from qvl_data.inspection.report import ExampleSample, Thumbnail
from qvl_data.inspection.thumbnails import thumbnail
from qvl_data.media.error import MediaError
from qvl_data.media.images import decode_reduced
from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.media.video_stills import video_stills
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Medium, Record
from qvl_data.records.record_file import RecordFile, open_record_files
from qvl_data.source_rules import SourceRules, rules_of

_SIDE = 128
_MEDIA = 2
_FRAMES = 3
# Three of them beside each other on a phone.
_FRAME_SIDE = 92
# For each video, and for all of a page together.
_VIDEO_S = 10.0
_MOST_VIDEO_S = 20.0
# Records that are looked at of a source, and pictures that are decoded: a page shall take a second, not a minute.
_MOST_READ = 50
_MOST_BYTES = 16 * 1024**2
_MOST_PIXELS = 40_000_000
_MOST_COMPARED_BYTES = 256 * 1024**2


class FirstRecords:
    """Reads records for a page. `room` is what their pictures may take, `since` when the run began, if that is known.

    `changed` names the files of records that have other bytes than `files` says, by the sha256 of each.
    """

    def __init__(self, base: Path, *, room: PictureRoom, files: Mapping[str, str], since: float | None = None) -> None:
        """Read relative paths from `base`."""
        self._base = base
        self._room = room
        self._files = files
        self._since = since
        self._video_s = _MOST_VIDEO_S
        self.changed: list[str] = []

    def read(self, sources: Sequence[Mapping[str, Any]], *, most: int) -> Iterator[ExampleSample]:
        """Give the first usable records of each source of a recipe, `most` in all, shared between the sources.

        Of a source whose first records have no video, the first one that has some is given too, if it is near.

        Raises DataError for a source that cannot be read, ValueError for one that is none.
        """
        if not sources:
            return
        shares = [most // len(sources) + (place < most % len(sources)) for place in range(len(sources))]
        for source, share in zip(sources, shares, strict=True):
            if share:
                yield from self._of_source(_rules(source, self._base), share)

    def _of_source(self, rules: SourceRules, share: int) -> Iterator[ExampleSample]:
        root = MediaRoot(rules.media_root, allow_outside=rules.allow_outside)
        file = open_record_files(rules.path)[0]
        # As the recipe names it.
        path = file.path.relative_to(self._base) if file.path.is_relative_to(self._base) else file.path
        self._compare(file, str(path))
        for record in _chosen(_usable(file, rules, path), share):
            yield self._example(record, root)

    def _compare(self, file: RecordFile, name: str) -> None:
        known = self._files.get(name)
        # Of a larger file the digest takes longer than a page may.
        if known and file.path.stat().st_size <= _MOST_COMPARED_BYTES and file.digest() != known:
            self.changed.append(name)

    def _example(self, record: Record, root: MediaRoot) -> ExampleSample:
        return ExampleSample(
            why="first",
            where=record.where,
            tokens=None,
            turns=tuple((turn.role, excerpt(turn)) for turn in chosen_turns(record.turns)),
            thumbnails=tuple(self._pictures(record.media[:_MEDIA], root)),
            hidden_media=max(0, len(record.media) - _MEDIA),
        )

    def _pictures(self, media: Sequence[Medium], root: MediaRoot) -> Iterator[Thumbnail]:
        for medium in media:
            name = printable(medium.written, 80)
            try:
                path = root.resolve(medium.written)
                made = list(self._frames(path, name) if medium.kind == "video" else self._image(path, name))
            except DataError as error:
                made = [Thumbnail(caption=name, error=printable(error.problems[0].message))]
            except (MediaError, MediaPathError) as error:
                made = [Thumbnail(caption=name, error=printable(str(error)))]
            except OSError as error:
                made = [Thumbnail(caption=name, error=f"cannot be read: {error.strerror}")]
            yield from map(self._room.admit, made)

    def _image(self, path: Path, name: str) -> Iterator[Thumbnail]:
        data = read_regular_file(path, error_type=DataError, limit=_MOST_BYTES)
        image = decode_reduced(data, _SIDE, max_source_pixels=_MOST_PIXELS)
        yield thumbnail(image, f"{name}{self._newer(path)}", side=_SIDE)

    def _frames(self, path: Path, name: str) -> Iterator[Thumbnail]:
        if not path.exists():
            raise MediaError("does not exist")
        if self._video_s <= 0:
            raise MediaError("is not decoded: the videos before it took all the time that a page has")
        began = time.monotonic()
        try:
            stills = video_stills(path, count=_FRAMES, side=_FRAME_SIDE, timeout_s=min(_VIDEO_S, self._video_s))
        finally:
            self._video_s -= time.monotonic() - began
        facts = stills.facts
        # The name stands where there is room for it, behind the frames.
        for image, second in zip(stills.images, stills.times_s, strict=True):
            yield thumbnail(image, f"{second:.1f} s", side=_FRAME_SIDE)
        frames = "1 frame" if facts.frames == 1 else f"{facts.frames:,} frames"
        size = f"{facts.width} × {facts.height}, {frames}"
        yield Thumbnail(caption=f"{name}, {size}{self._newer(path)}")

    def _newer(self, path: Path) -> str:
        is_newer = self._since is not None and path.stat().st_mtime > self._since
        return "; the file is newer than the run" if is_newer else ""


def _usable(file: RecordFile, rules: SourceRules, path: Path) -> Iterator[Record]:
    for element in islice(file.elements(), _MOST_READ):
        found = parse_element(element, path=path, format_name=rules.format, tags=rules.tags)
        if isinstance(found, Record):
            yield found


def _chosen(records: Iterable[Record], share: int) -> Iterator[Record]:
    """Give the first ones, and the first with a video after them where none of these has one."""
    has_video = False
    for number, record in enumerate(records):
        is_video = any(medium.kind == "video" for medium in record.media)
        if number < share or (is_video and not has_video):
            yield record
        has_video = has_video or is_video
        if has_video and number >= share - 1:
            return


def _rules(source: Mapping[str, Any], base: Path) -> SourceRules:
    # What a newer version has of other keys does not say how records are read.
    known = {key: value for key, value in source.items() if key in SourceSection.model_fields}
    rules = rules_of(SourceSection.model_validate(known))
    return replace(rules, path=base / rules.path, media_root=base / rules.media_root)
