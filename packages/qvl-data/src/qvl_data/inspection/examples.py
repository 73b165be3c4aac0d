"""Samples to look at: the beginning of their messages and small pictures of their media."""

from __future__ import annotations

from collections.abc import Sequence

from qvl_core.input_file import printable

from qvl_data.inspection.report import ExampleSample, Thumbnail, Why
from qvl_data.inspection.thumbnails import thumbnail
from qvl_data.media.images import ImageError, load_image
from qvl_data.records.record import Turn
from qvl_data.samples import MediaFile

_MEDIA = 4
_TURNS = 4
_TEXT = 220
_SIDE = 128


def example_sample(
    why: Why, where: str, tokens: int, turns: Sequence[Turn], media: Sequence[MediaFile]
) -> ExampleSample:
    """Show a sample: its first messages, its first media. A file that cannot be decoded says so in its place."""
    return ExampleSample(
        why=why,
        where=printable(where),
        tokens=tokens,
        turns=tuple((turn.role, _excerpt(turn)) for turn in _chosen(turns)),
        thumbnails=tuple(_picture(file) for file in media[:_MEDIA]),
        hidden_media=max(0, len(media) - _MEDIA),
    )


def _chosen(turns: Sequence[Turn]) -> Sequence[Turn]:
    # The last message is an answer: what is learned is worth more than the middle of a long conversation.
    return turns if len(turns) <= _TURNS else [*turns[: _TURNS - 1], turns[-1]]


def _excerpt(turn: Turn) -> str:
    pieces = [turn.texts[0]]
    for kind, text in zip(turn.media, turn.texts[1:], strict=True):
        pieces += [f"[{kind}]", text]
    text = "".join(pieces).strip()
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _picture(file: MediaFile) -> Thumbnail:
    name = printable(file.written, 80)
    try:
        image = load_image(file.path)
    except ImageError as error:
        return Thumbnail(caption=name, error=printable(str(error)))
    return thumbnail(image, f"{name}, {image.width} × {image.height}", side=_SIDE)
