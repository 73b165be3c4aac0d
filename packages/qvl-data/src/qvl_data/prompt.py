"""One question about images, for inference and evaluation, tokenised exactly as training data is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from qvl_core.batch import IGNORE
from qvl_core.errors import DataError, Problem
from qvl_core.geometry import GeometryError, tokens_of

from qvl_data.chat import ChatError
from qvl_data.media.images import ImageError, decode_image, load_image, to_rgb
from qvl_data.processor import Processor
from qvl_data.records.record import MediaKind, Turn
from qvl_data.samples import Sample, assemble, image_patches


def build_prompt(
    processor: Processor,
    images: Sequence[Path | bytes | Image.Image],
    text: str,
    system: str | None = None,
    *,
    sample_id: str = "prompt",
) -> Sample:
    """Give a sample of one user turn, images first, ending with the header of the answer. All labels are IGNORE.

    An image is a file, the bytes of one, or a Pillow image. Without `system` the checkpoint's template decides whether
    there is a system prompt. Raises DataError naming `sample_id`.
    """
    if not text.strip() and not images:
        raise DataError(Problem(where=sample_id, message="the prompt is empty: no text and no image"))
    media: tuple[MediaKind, ...] = tuple("image" for _ in images)
    turns = [Turn(role="user", texts=(*("" for _ in images), text), media=media)]
    if system is not None:
        turns.insert(0, Turn(role="system", texts=(system,)))
    try:
        seen = [image_patches(_rgb(image), processor) for image in images]
        grids = [medium.grid for medium in seen]
        counts = tokens_of(grids, processor.spec.vision.spatial_merge_size).tolist()
        input_ids = processor.chat.encode_prompt(turns, counts)
    except (ImageError, GeometryError, ChatError) as error:
        raise DataError(Problem(where=sample_id, message=str(error))) from None
    labels = np.full(len(input_ids), IGNORE, np.int32)
    return assemble(sample_id, input_ids, labels, seen, processor)


def _rgb(image: Path | bytes | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, bytes):
        return decode_image(image)
    try:
        return load_image(Path(image))
    except ImageError as error:
        raise ImageError(f"{image}: {error}") from None
