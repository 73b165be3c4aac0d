"""Images per second: qvl, HF's pillow-based and torchvision-based processors, JPEG decoding alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from qvl_core.specs.model_spec import VisionSpec
from qvl_data.media.images import check_image, decode_image
from qvl_data.media.pixels import ImageRules, normalised_levels

from media_sides.clock import Side

HEIGHT, WIDTH = 960, 1280
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
LEVELS = normalised_levels(MEAN, DEVIATION, 1 / 255)
VISION = VisionSpec(depth=1, hidden_size=16, num_heads=1, intermediate_size=16, out_hidden_size=16)


def photograph(height: int, width: int) -> np.ndarray:
    """Give something like a photograph, uint8 [height, width, 3]: smooth colours and a little noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-10, 10, (height, width, 1)), 0, 255).astype(np.uint8)


def image_sides(min_pixels: int, max_pixels: int) -> dict[str, Side]:
    """Give each side, for an image that is decoded already and (`+ JPEG`) for the bytes of its file."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    buffer = io.BytesIO()
    Image.fromarray(photograph(HEIGHT, WIDTH)).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    image = decode_image(data)
    rules = ImageRules(vision=VISION, min_pixels=min_pixels, max_pixels=max_pixels, levels=LEVELS)
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    pillow, torchvision = Qwen2VLImageProcessorPil(size=size), Qwen2VLImageProcessor(size=size)

    def published(processor: Any, given: Image.Image, kind: str) -> Any:
        return processor(images=[given], return_tensors=kind)["pixel_values"]

    _, grid_height, grid_width = rules.grid(HEIGHT, WIDTH)
    resized = (grid_width * 14, grid_height * 14)
    np.testing.assert_array_equal(rules.patches(image)[0], published(pillow, image, "np"))
    return {
        "qvl": Side(units=1, call=lambda: rules.patches(image)),
        "Qwen2VLImageProcessorPil": Side(units=1, call=lambda: published(pillow, image, "np")),
        "Qwen2VLImageProcessor (torchvision)": Side(units=1, call=lambda: published(torchvision, image, "pt")),
        "pillow's resizing alone": Side(units=1, call=lambda: image.resize(resized, Image.Resampling.BICUBIC)),
        "qvl + JPEG": Side(units=1, call=lambda: rules.patches(decode_image(data))),
        "Qwen2VLImageProcessorPil + JPEG": Side(units=1, call=lambda: published(pillow, _opened(data), "np")),
        "Qwen2VLImageProcessor (torchvision) + JPEG": Side(
            units=1, call=lambda: published(torchvision, _opened(data), "pt")
        ),
        "JPEG decoding alone": Side(units=1, call=lambda: _opened(data).load()),
    }


def check_sides(folder: Path) -> dict[str, Side]:
    """Give the checks of small files: headers alone, and decoding. Both hash every byte."""
    paths = [folder / f"{number}.jpg" for number in range(100)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(photograph(240, 320), number, axis=1)).save(path, quality=90)

    def check(decode: bool) -> None:
        for path in paths:
            check_image(path, decode=decode)

    return {
        "headers": Side(units=len(paths), call=lambda: check(False)),
        "decoding": Side(units=len(paths), call=lambda: check(True)),
    }


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
