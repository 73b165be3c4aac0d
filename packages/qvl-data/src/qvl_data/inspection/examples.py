"""Samples to look at: the beginning of their messages and small pictures of their media."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qvl_core.errors import DataError
from qvl_core.geometry import GeometryError
from qvl_core.input_file import printable

from qvl_data.dataset import Dataset
from qvl_data.inspection.figures import longest_first
from qvl_data.inspection.pictures import frames_of_patches
from qvl_data.inspection.report import ExampleSample, Thumbnail, Why
from qvl_data.inspection.thumbnails import thumbnail
from qvl_data.media.error import MediaError
from qvl_data.media.facts import MediaFile
from qvl_data.media.images import load_image
from qvl_data.media.video import load_video
from qvl_data.media.video_facts import VideoFacts
from qvl_data.order.sample_order import shuffled
from qvl_data.planning import PlannedSample
from qvl_data.processor import Processor
from qvl_data.records.record import Turn

_LONGEST, _DROPPED, _RANDOM = 3, 3, 6
_MEDIA = 4
_TURNS = 4
_TEXT = 220
_SIDE = 128
_SEED = 0


def example_samples(train: Dataset, every: Dataset, lost: NDArray[np.int64]) -> tuple[ExampleSample, ...]:
    """Show the longest and some random training samples, and the longest of those that are lost, rows of `every`."""
    longest = longest_first(train.lengths, _LONGEST).tolist()
    drawn = shuffled(len(train), _SEED)[:_RANDOM].tolist()
    dropped = lost[longest_first(every.lengths[lost], _DROPPED)].tolist()
    return (
        *_shown("longest", train, longest),
        *_shown("dropped", every, dropped),
        *_shown("random", train, drawn),
    )


def chosen_turns(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Give the turns to show of a conversation: all, or the first ones and the last one."""
    # The last message is an answer: what is learned is worth more than the middle of a long conversation.
    return turns if len(turns) <= _TURNS else [*turns[: _TURNS - 1], turns[-1]]


def excerpt(turn: Turn) -> str:
    """Give the beginning of a message, with its media as [image] and [video]."""
    pieces = [turn.texts[0]]
    for kind, text in zip(turn.media, turn.texts[1:], strict=True):
        pieces += [f"[{kind}]", text]
    text = "".join(pieces).strip()
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _shown(why: Why, data: Dataset, indexes: Sequence[int]) -> Iterator[ExampleSample]:
    for index in indexes:
        try:
            planned = data.planned(index)
        except DataError as error:
            # Changed while we look at it. The report has its figures; here it has no picture.
            problem = error.problems[0]
            yield ExampleSample(why=why, where=problem.where, tokens=0, turns=(("", problem.message),))
            continue
        yield _example(why, planned, data.processor)


def _example(why: Why, planned: PlannedSample, processor: Processor) -> ExampleSample:
    return ExampleSample(
        why=why,
        where=planned.record.where,
        tokens=planned.tokens,
        turns=tuple((turn.role, excerpt(turn)) for turn in chosen_turns(planned.record.turns)),
        thumbnails=tuple(_picture(file, processor) for file in planned.media[:_MEDIA]),
        hidden_media=max(0, len(planned.media) - _MEDIA),
    )


def _picture(file: MediaFile, processor: Processor) -> Thumbnail:
    name = printable(file.written, 80)
    try:
        facts = file.facts
        if isinstance(facts, VideoFacts):
            caption = f"{name}, {facts.width} × {facts.height}, {facts.duration_s:.1f} s"
            return thumbnail(_first_frame(file, facts, processor), caption, side=_SIDE)
        image = load_image(file.path, facts)
    except (MediaError, GeometryError) as error:
        return Thumbnail(caption=name, error=printable(str(error)))
    return thumbnail(image, f"{name}, {image.width} × {image.height}", side=_SIDE)


def _first_frame(file: MediaFile, facts: VideoFacts, processor: Processor) -> Image.Image:
    rules = replace(processor.videos, max_frames=2, min_frames=2, total_pixels=None)
    found = load_video(file.path, facts, rules, timeout_s=processor.video_timeout_s)
    return Image.fromarray(frames_of_patches(found.patches, found.grid, rules.vision, rules.levels)[0])
