"""The first records of a run's sources, to look at: read as the run's recipe says, bounded, and nothing checked.

What is shown are records, not samples: no tokenizer is loaded, nothing is counted, no video is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError
from qvl_core.input_file import printable, read_regular_file
from qvl_core.recipe.sections import SourceSection

from qvl_data.inspection.examples import chosen_turns, excerpt
from qvl_data.inspection.report import ExampleSample, Thumbnail
from qvl_data.inspection.thumbnails import thumbnail
from qvl_data.media.error import MediaError
from qvl_data.media.images import decode_reduced
from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Medium, Record
from qvl_data.records.record_file import open_record_files
from qvl_data.source_rules import SourceRules, rules_of

_SIDE = 128
_MEDIA = 2
# Bad records that are passed over, and pictures that are decoded: a page shall take a second, not a minute.
_MOST_READ = 50
_MOST_BYTES = 16 * 1024**2
_MOST_PIXELS = 40_000_000


def first_records(sources: Sequence[Mapping[str, Any]], base: Path, *, most: int) -> Iterator[ExampleSample]:
    """Give the first usable records of each source, `most` in all, shared between the sources.

    `sources` are those of a recipe, relative paths start from `base`. Raises DataError for a source that cannot be
    read, ValueError for one that is none.
    """
    shares = [most // len(sources) + (place < most % len(sources)) for place in range(len(sources))] if sources else []
    for source, share in zip(sources, shares, strict=True):
        if share:
            yield from _of_source(_rules(source, base), share, base)


def _rules(source: Mapping[str, Any], base: Path) -> SourceRules:
    # What a newer version has of other keys does not say how records are read.
    known = {key: value for key, value in source.items() if key in SourceSection.model_fields}
    rules = rules_of(SourceSection.model_validate(known))
    return replace(rules, path=base / rules.path, media_root=base / rules.media_root)


def _of_source(rules: SourceRules, share: int, base: Path) -> Iterator[ExampleSample]:
    root = MediaRoot(rules.media_root, allow_outside=rules.allow_outside)
    file = open_record_files(rules.path)[0]
    # As the recipe names it.
    path = file.path.relative_to(base) if file.path.is_relative_to(base) else file.path
    shown = 0
    for element in islice(file.elements(), _MOST_READ):
        found = parse_element(element, path=path, format_name=rules.format, tags=rules.tags)
        if not isinstance(found, Record):
            continue
        yield _example(found, root)
        shown += 1
        if shown == share:
            return


def _example(record: Record, root: MediaRoot) -> ExampleSample:
    return ExampleSample(
        why="first",
        where=record.where,
        tokens=None,
        turns=tuple((turn.role, excerpt(turn)) for turn in chosen_turns(record.turns)),
        thumbnails=tuple(_picture(medium, root) for medium in record.media[:_MEDIA]),
        hidden_media=max(0, len(record.media) - _MEDIA),
    )


def _picture(medium: Medium, root: MediaRoot) -> Thumbnail:
    name = printable(medium.written, 80)
    if medium.kind == "video":
        return Thumbnail(caption=f"video {name}")
    try:
        data = read_regular_file(root.resolve(medium.written), error_type=DataError, limit=_MOST_BYTES)
        image = decode_reduced(data, _SIDE, max_source_pixels=_MOST_PIXELS)
    except DataError as error:
        return Thumbnail(caption=name, error=printable(error.problems[0].message))
    except (MediaError, MediaPathError) as error:
        return Thumbnail(caption=name, error=printable(str(error)))
    return thumbnail(image, name, side=_SIDE)
