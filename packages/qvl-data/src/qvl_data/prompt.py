"""Questions and conversations for inference and evaluation, tokenised exactly as training data is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image
from qvl_core.batch import IGNORE
from qvl_core.errors import DataError, Problem
from qvl_core.geometry import GeometryError, tokens_of
from qvl_core.input_file import printable

from qvl_data.chat import ChatError
from qvl_data.media.error import MediaError
from qvl_data.media.facts import MediaFile
from qvl_data.media.images import MAX_SOURCE_PIXELS, ImageError, decode_image, load_image, to_rgb
from qvl_data.media.video import probe_video
from qvl_data.processor import Processor
from qvl_data.records.record import MediaKind, Role, Turn
from qvl_data.samples import MediumPatches, Sample, assemble, image_patches, load_medium


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptImage:
    """An image: a file, the bytes of one, or a Pillow image. Larger ones than `max_source_pixels` are not decoded."""

    source: Path | bytes | Image.Image
    max_source_pixels: int = MAX_SOURCE_PIXELS


@dataclass(frozen=True, kw_only=True)
class PromptVideo:
    """A video file."""

    path: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadyMedium:
    """A medium whose patches are there already, so that the next turn of a conversation does not decode it again."""

    kind: MediaKind
    seen: MediumPatches


Part: TypeAlias = "str | PromptImage | PromptVideo | ReadyMedium"


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """What one side said: texts, images and videos, in the order in which the model shall read them."""

    role: Role
    parts: tuple[Part, ...]


def build_prompt(
    processor: Processor,
    images: Sequence[Path | bytes | Image.Image],
    text: str,
    system: str | None = None,
    *,
    videos: Sequence[Path] = (),
    sample_id: str = "prompt",
) -> Sample:
    """Give a sample of one user turn, images first, then videos, ending with the header of the answer.

    An image is a file, the bytes of one, or a Pillow image. Without `system` the checkpoint's template decides whether
    there is a system prompt. All labels are IGNORE. Raises DataError naming `sample_id`.
    """
    if not text.strip() and not images and not videos:
        raise DataError(Problem(where=sample_id, message="the prompt is empty: no text, no image and no video"))
    return build_conversation(processor, one_question(images, videos, text, system), sample_id=sample_id)


def one_question(
    images: Iterable[Path | bytes | Image.Image], videos: Iterable[Path], text: str, system: str | None = None
) -> tuple[Message, ...]:
    """Give the conversation of one question: images first, then videos, then the text."""
    media: list[Part] = [PromptImage(source=image) for image in images]
    media += [PromptVideo(path=path) for path in videos]
    question = Message(role="user", parts=(*media, text))
    return (question,) if system is None else (Message(role="system", parts=(system,)), question)


def build_conversation(processor: Processor, messages: Sequence[Message], *, sample_id: str = "prompt") -> Sample:
    """Give a sample of a conversation that ends with the user, and with the header of the next answer.

    All labels are IGNORE. Raises DataError naming `sample_id` for a medium that cannot be used and for an order of
    turns that no answer can follow.
    """
    if not messages or messages[-1].role != "user":
        last = f"ends with a message of the {messages[-1].role}" if messages else "is empty"
        raise DataError(Problem(where=sample_id, message=f"the conversation {last}; the last message is the user's"))
    try:
        ready = tuple(ready_message(message, processor) for message in messages)
        media = [part.seen for message in ready for part in message.parts if isinstance(part, ReadyMedium)]
        counts = tokens_of([medium.grid for medium in media], processor.spec.vision.spatial_merge_size).tolist()
        input_ids = processor.chat.encode_prompt([_turn(message) for message in ready], counts)
    except (MediaError, GeometryError, ChatError) as error:
        raise DataError(Problem(where=sample_id, message=str(error))) from None
    labels = np.full(len(input_ids), IGNORE, np.int32)
    return assemble(sample_id, input_ids, labels, media, processor)


def ready_message(message: Message, processor: Processor) -> Message:
    """Give the message with every medium read and resized. Raises MediaError, GeometryError."""
    return replace(message, parts=tuple(_ready(part, processor) for part in message.parts))


def _ready(part: Part, processor: Processor) -> str | ReadyMedium:
    if isinstance(part, str | ReadyMedium):
        return part
    try:
        if isinstance(part, PromptImage):
            return ReadyMedium(kind="image", seen=image_patches(_rgb(part), processor))
        return ReadyMedium(kind="video", seen=_video(part.path, processor))
    except GeometryError as error:
        path = part.path if isinstance(part, PromptVideo) else part.source
        if isinstance(path, Path):
            raise GeometryError(f"{printable(str(path))}: {error}") from None
        raise


def _turn(message: Message) -> Turn:
    """Give the turn as the template wants it: texts around media, texts that follow one another joined."""
    texts = [""]
    media: list[MediaKind] = []
    for part in message.parts:
        if isinstance(part, str):
            texts[-1] += part
            continue
        assert isinstance(part, ReadyMedium), "media are read before turns are made"
        media.append(part.kind)
        texts.append("")
    return Turn(role=message.role, texts=tuple(texts), media=tuple(media))


def _rgb(image: PromptImage) -> Image.Image:
    source, limit = image.source, image.max_source_pixels
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, bytes):
        return decode_image(source, max_source_pixels=limit)
    try:
        return load_image(Path(source), max_source_pixels=limit)
    except ImageError as error:
        raise ImageError(f"{printable(str(source))}: {error}") from None


def _video(path: Path, processor: Processor) -> MediumPatches:
    try:
        facts = probe_video(path, timeout_s=processor.video_timeout_s)
        status = path.stat()
        file = MediaFile(
            kind="video",
            written=str(path),
            path=path,
            facts=facts,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
        )
        return load_medium(file, processor, None)
    except (MediaError, OSError) as error:
        raise MediaError(f"{printable(str(path))}: {error}") from None
