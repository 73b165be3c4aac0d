"""From records to planned samples: media resolved and checked, lengths known, too long ones dealt with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qvl_core.errors import Problem
from qvl_core.geometry import GeometryError, tokens_of
from qvl_core.input_file import printable

from qvl_data.chat import ChatError
from qvl_data.media.images import ImageFacts
from qvl_data.media.paths import MediaPathError, resolve_media_path
from qvl_data.media.preflight import MediaCheck, Progress
from qvl_data.processor import Processor
from qvl_data.records.problem_list import SHOWN, ProblemList
from qvl_data.records.record import Record
from qvl_data.samples import MediaFile, PlannedSample

TooLong = Literal["drop", "error", "shrink"]
_REPORT_EVERY = 500


class TooLongList:
    """How many samples were too long and what became of them; the first few by name."""

    def __init__(self) -> None:
        self.dropped = 0
        self.shrunk = 0
        self.examples: list[Problem] = []

    def note(self, where: str, message: str) -> None:
        """Keep an example if there is room."""
        if len(self.examples) < SHOWN:
            self.examples.append(Problem(where=where, key="data.sequence_length", message=message, severity="warning"))


@dataclass(frozen=True, kw_only=True)
class LengthRule:
    """Longest sample in tokens, and what happens to longer ones."""

    limit: int
    policy: TooLong


def resolve_media(
    records: Sequence[Record], media_root: Path, problems: ProblemList
) -> list[tuple[Record, tuple[Path, ...]]]:
    """Give each record with the real paths of its images; a record with a refused path is a problem and left out."""
    resolved = []
    for record in records:
        try:
            resolved.append((record, tuple(resolve_media_path(medium.written, media_root) for medium in record.media)))
        except MediaPathError as error:
            problems.add(Problem(where=record.where, key="image", message=str(error)))
    return resolved


def plan_samples(
    resolved: Sequence[tuple[Record, tuple[Path, ...]]],
    *,
    media: MediaCheck,
    processor: Processor,
    rule: LengthRule,
    problems: ProblemList,
    too_long: TooLongList,
    progress: Progress | None = None,
) -> list[PlannedSample]:
    """Give the samples that will be used, in record order; what is wrong goes to `problems`."""
    planned = []
    for done, (record, paths) in enumerate(resolved, 1):
        files = _media_files(record, paths, media.facts, media.errors, problems)
        if files is not None:
            sample = _plan_one(record, files, processor, rule, problems, too_long)
            if sample is not None:
                planned.append(sample)
        if progress and (done % _REPORT_EVERY == 0 or done == len(resolved)):
            progress("counting tokens", done, len(resolved))
    return planned


def _media_files(
    record: Record,
    paths: tuple[Path, ...],
    facts: Mapping[Path, ImageFacts],
    errors: Mapping[Path, str],
    problems: ProblemList,
) -> tuple[MediaFile, ...] | None:
    for path in paths:
        if path in errors:
            problems.add(Problem(where=record.where, key=printable(str(path)), message=errors[path]))
    if any(path in errors for path in paths):
        return None
    pairs = zip(record.media, paths, strict=True)
    return tuple(MediaFile(written=medium.written, path=path, facts=facts[path]) for medium, path in pairs)


def _plan_one(
    record: Record,
    files: tuple[MediaFile, ...],
    processor: Processor,
    rule: LengthRule,
    problems: ProblemList,
    too_long: TooLongList,
) -> PlannedSample | None:
    try:
        text_tokens = processor.chat.count(record.turns)
        tokens = text_tokens + _image_tokens(files, processor, None)
    except (GeometryError, ChatError) as error:
        problems.add(Problem(where=record.where, message=str(error)))
        return None
    if tokens <= rule.limit:
        return PlannedSample(record=record, media=files, tokens=tokens)
    image_tokens = tokens - text_tokens
    message = f"has {tokens:,} tokens ({text_tokens:,} text, {image_tokens:,} image); the limit is {rule.limit:,}"
    if rule.policy == "error":
        fix = "raise data.sequence_length, lower data.image.max_pixels, or set data.too_long"
        problems.add(Problem(where=record.where, key="data.sequence_length", message=message, fix=fix))
        return None
    shrunk = _shrink(record, files, processor, rule, text_tokens) if rule.policy == "shrink" else None
    if shrunk is None:
        too_long.dropped += 1
        tried = ", also with the smallest images" if rule.policy == "shrink" else ""
        too_long.note(record.where, f"{message}{tried}: dropped")
        return None
    too_long.shrunk += 1
    too_long.note(record.where, f"{message}: images shrunk to {shrunk.max_pixels:,} pixels, {shrunk.tokens:,} tokens")
    return shrunk


def _shrink(
    record: Record, files: tuple[MediaFile, ...], processor: Processor, rule: LengthRule, text_tokens: int
) -> PlannedSample | None:
    """Find the largest pixel limit under which the sample fits; None if it does not at the smallest."""
    smallest, largest = processor.images.min_pixels, processor.images.max_pixels
    room = rule.limit - text_tokens
    if not files or _image_tokens(files, processor, smallest) > room:
        return None
    # Tokens never fall as the limit rises, so the last limit that fits can be searched by halving.
    while smallest < largest:
        middle = (smallest + largest + 1) // 2
        if _image_tokens(files, processor, middle) <= room:
            smallest = middle
        else:
            largest = middle - 1
    tokens = text_tokens + _image_tokens(files, processor, smallest)
    return PlannedSample(record=record, media=files, tokens=tokens, max_pixels=smallest)


def _image_tokens(files: tuple[MediaFile, ...], processor: Processor, max_pixels: int | None) -> int:
    grids = [processor.images.grid(file.facts.height, file.facts.width, max_pixels) for file in files]
    return int(tokens_of(grids, processor.spec.vision.spatial_merge_size).sum())
