"""One record to one planned sample: everything that is decided about it before its pixels are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qvl_core.errors import Problem
from qvl_core.geometry import GeometryError, tokens_of
from qvl_core.input_file import printable

from qvl_data.chat import ChatError
from qvl_data.media.checker import MediaChecker, MissingMediaError
from qvl_data.media.error import MediaError, UncertainMediaError
from qvl_data.media.facts import MediaFile
from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.processor import Processor
from qvl_data.records.element import Element
from qvl_data.records.formats import judge_element
from qvl_data.records.grounding import check_regions, grounded_turns
from qvl_data.records.problem_list import Finding, Kind
from qvl_data.records.record import Frame, Record, Turn
from qvl_data.source_rules import SourceRules

TooLong = Literal["drop", "error", "shrink"]
Outcome = Literal["used", "shrunk", "dropped", "wrong"]


@dataclass(frozen=True, kw_only=True)
class LengthRule:
    """Longest sample in tokens, and what happens to longer ones."""

    limit: int
    policy: TooLong


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """A record whose media were checked. `tokens` is its length, `max_pixels` is set where its media are shrunk."""

    record: Record
    media: tuple[MediaFile, ...]
    tokens: int
    text_tokens: int
    max_pixels: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of one record. `sample` is there where it is used; `note` says what was done to a too long one."""

    where: str
    outcome: Outcome
    sample: PlannedSample | None = None
    findings: tuple[Finding, ...] = ()
    note: str = ""
    media: tuple[MediaFile, ...] = ()
    """What was looked at, where that decided."""


class Planner:
    """Judges records of any source by one recipe. The same object serves the pass before a run and streaming."""

    def __init__(self, *, processor: Processor, checker: MediaChecker, rule: LengthRule, frame: Frame) -> None:
        self._processor = processor
        self._checker = checker
        self._rule = rule
        self._frame = frame
        self._roots: dict[tuple[Path, bool], MediaRoot] = {}

    def judge(self, element: Element, source: SourceRules, path: Path) -> Verdict:
        """Say what becomes of one element of the file `path`."""
        where = element.where(path)
        record = judge_element(element, path=path, format_name=source.format, tags=source.tags)
        if not isinstance(record, Record):
            return Verdict(where=where, outcome="wrong", findings=record)
        files, findings = self._files(record, source)
        if findings:
            return Verdict(where=where, outcome="wrong", findings=tuple(findings))
        try:
            return self._fit(record, files)
        except (GeometryError, MediaError) as error:
            return _wrong(where, "media", str(error), key="record")
        except ChatError as error:
            return _wrong(where, "template", str(error))

    def resolve(self, record: Record, source: SourceRules) -> tuple[Path, ...]:
        """Give the real path of each medium of a record. Raises MediaPathError."""
        key = (source.media_root, source.allow_outside)
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = MediaRoot(source.media_root, allow_outside=source.allow_outside)
        return tuple(root.resolve(medium.written) for medium in record.media)

    def _files(self, record: Record, source: SourceRules) -> tuple[tuple[MediaFile, ...], list[Finding]]:
        try:
            paths = self.resolve(record, source)
        except MediaPathError as error:
            return (), [_finding("path", record.where, str(error), key="media path")]
        files, findings = [], []
        for medium, path in zip(record.media, paths, strict=True):
            try:
                files.append(self._checker.check(medium.kind, medium.written, path))
            except MissingMediaError as error:
                findings.append(_finding("missing", record.where, str(error), key=printable(str(path))))
            except MediaError as error:
                kind: Kind = "uncertain" if isinstance(error, UncertainMediaError) else "media"
                findings.append(_finding(kind, record.where, str(error), key=printable(str(path))))
        return tuple(files), findings

    def _fit(self, record: Record, files: tuple[MediaFile, ...]) -> Verdict:
        outside = check_regions(record, sizes_of(files, self._processor, None)) if record.regions else []
        if outside:
            findings = tuple(_finding("region", record.where, message) for message in outside)
            return Verdict(where=record.where, outcome="wrong", findings=findings)
        sample = self._measured(record, files, None)
        limit = self._rule.limit
        if sample.tokens <= limit:
            return Verdict(where=record.where, outcome="used", sample=sample)
        media_tokens = sample.tokens - sample.text_tokens
        parts = f"{sample.text_tokens:,} text, {media_tokens:,} media"
        message = f"has {sample.tokens:,} tokens ({parts}); the limit is {limit:,}"
        if self._rule.policy == "error":
            fix = "raise data.sequence_length, lower max_pixels, or set data.too_long"
            return _wrong(record.where, "too_long", message, key="data.sequence_length", fix=fix)
        shrunk = self._shrunk(sample) if self._rule.policy == "shrink" else None
        if shrunk is None:
            tried = ", also with the smallest media" if self._rule.policy == "shrink" else ""
            note = f"{message}{tried}: dropped"
            return Verdict(where=record.where, outcome="dropped", note=note, media=files)
        note = f"{message}: media shrunk to {shrunk.max_pixels:,} pixels, {shrunk.tokens:,} tokens"
        return Verdict(where=record.where, outcome="shrunk", sample=shrunk, note=note)

    def _measured(self, record: Record, files: tuple[MediaFile, ...], max_pixels: int | None) -> PlannedSample:
        turns = turns_of(record, files, self._processor, self._frame, max_pixels)
        text_tokens = self._processor.chat.count(turns)
        return PlannedSample(
            record=record,
            media=files,
            tokens=text_tokens + media_tokens(files, self._processor, max_pixels),
            text_tokens=text_tokens,
            max_pixels=max_pixels,
        )

    def _shrunk(self, sample: PlannedSample) -> PlannedSample | None:
        """Find the largest pixel limit under which the sample fits; None if it does not at the smallest.

        Coordinates in the text only get shorter with smaller media, so the room that is left for media is at least
        what the text at full size leaves.
        """
        files, processor = sample.media, self._processor
        smallest, largest = processor.pixel_range(files)
        room = self._rule.limit - sample.text_tokens
        if not files or media_tokens(files, processor, smallest) > room:
            return None
        # Tokens never fall as the limit rises, so the last limit that fits can be searched by halving.
        while smallest < largest:
            middle = (smallest + largest + 1) // 2
            if media_tokens(files, processor, middle) <= room:
                smallest = middle
            else:
                largest = middle - 1
        return self._measured(sample.record, files, smallest)


def turns_of(
    record: Record, files: Sequence[MediaFile], processor: Processor, frame: Frame, max_pixels: int | None
) -> tuple[Turn, ...]:
    """Give the turns with their boxes and points written out, as they are with this pixel limit."""
    if not record.regions:
        return record.turns
    written_for = sizes_of(files, processor, None) if max_pixels is not None else None
    return grounded_turns(record, sizes_of(files, processor, max_pixels), frame, written_for=written_for)


def sizes_of(
    files: Sequence[MediaFile], processor: Processor, max_pixels: int | None
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Give the (height, width) of each medium as shown and as the model sees it, pixels."""
    side = processor.spec.vision.patch_size
    sizes = []
    for file in files:
        _, rows, columns = processor.grid(file.facts, max_pixels)
        sizes.append(((file.facts.height, file.facts.width), (rows * side, columns * side)))
    return sizes


def media_tokens(files: Sequence[MediaFile], processor: Processor, max_pixels: int | None) -> int:
    """Count the tokens that media fill with a pixel limit. Raises GeometryError."""
    grids = [processor.grid(file.facts, max_pixels) for file in files]
    return int(tokens_of(grids, processor.spec.vision.spatial_merge_size).sum())


def digest_of(record: Record) -> bytes:
    """Give 16 bytes that equal records share: the same turns, media paths and regions."""
    content = (
        [(turn.role, turn.texts, turn.media) for turn in record.turns],
        [(medium.kind, medium.written) for medium in record.media],
        [(region.kind, region.values, region.medium) for region in record.regions],
    )
    return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _finding(kind: Kind, where: str, message: str, *, key: str = "", fix: str = "") -> Finding:
    return Finding(kind=kind, problem=Problem(where=where, key=key, message=message, fix=fix))


def _wrong(where: str, kind: Kind, message: str, *, key: str = "", fix: str = "") -> Verdict:
    return Verdict(where=where, outcome="wrong", findings=(_finding(kind, where, message, key=key, fix=fix),))
