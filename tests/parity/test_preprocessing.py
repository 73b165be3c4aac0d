"""Images to patches: equal to the bit to the published pillow-based image processor, for every size and mode.

torch is needed by neither side; the test lives here because the oracle is HF's. The torchvision-based processor is
compared too where torchvision is installed; it resizes by other code, so its largest difference is measured and bounded
instead.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qvl_core.geometry import patchify
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import VisionSpec
from qvl_data.media.images import decode_image
from qvl_data.media.pixels import ImageRules, normalised_levels
from qvl_data.processor import load_processor
from qvl_data.prompt import build_prompt

transformers = pytest.importorskip("transformers")

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "checkpoint"
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
VISION = VisionSpec(depth=1, hidden_size=16, num_heads=1, intermediate_size=16, out_hidden_size=16)
LIMITS = ((3136, 262144), (12544, 12544), (56 * 56, 28 * 28 * 1280), (784, 20000), (100_000, 100_001), (1, 784))
MODES = ("RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr")


def rules(min_pixels: int, max_pixels: int) -> ImageRules:
    levels = normalised_levels(MEAN, DEVIATION, 1 / 255)
    return ImageRules(vision=VISION, min_pixels=min_pixels, max_pixels=max_pixels, levels=levels)


def published(image: Image.Image, min_pixels: int, max_pixels: int, kind: str = "Pil") -> tuple[np.ndarray, list[int]]:
    """Give patches and grid of the HF processor; before transformers 5 its pillow form has no suffix."""
    from transformers.models.qwen2_vl import image_processing_qwen2_vl as module

    if kind == "Pil":
        try:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Published
        except ImportError:
            Published = module.Qwen2VLImageProcessor
    else:
        Published = module.Qwen2VLImageProcessor
    processor = Published(size={"shortest_edge": min_pixels, "longest_edge": max_pixels})
    found = processor(images=[image], return_tensors="np")
    return np.asarray(found["pixel_values"]), np.asarray(found["image_grid_thw"])[0].tolist()


def random_image(rng: np.random.Generator, mode: str = "RGB", largest: int = 900) -> Image.Image:
    """Give noise with structure: low-frequency colour plus noise, so that rounding is exercised at all levels."""
    height, width = (int(size) for size in np.exp(rng.uniform(np.log(6), np.log(largest), 2)))
    small = rng.integers(0, 256, (rng.integers(1, 9), rng.integers(1, 9), 4), dtype=np.uint8)
    base = np.asarray(Image.fromarray(small, "RGBA").resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    noise = rng.integers(-60, 60, base.shape)
    image = Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def assert_equal_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert theirs.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))


@pytest.mark.parametrize("limits", LIMITS)
def test_rgb_images_of_many_sizes_are_equal_to_the_bit(limits: tuple[int, int]) -> None:
    rng = np.random.default_rng(limits[0])
    for _ in range(75):
        image = random_image(rng)
        ours, grid = rules(*limits).patches(image)
        theirs, their_grid = published(image, *limits)
        assert list(grid) == their_grid
        assert_equal_bits(ours, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_other_modes_saved_as_files_are_equal_to_the_bit(mode: str) -> None:
    rng = np.random.default_rng(7)
    file_format = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    for _ in range(12):
        buffer = io.BytesIO()
        random_image(rng, mode, 300).save(buffer, file_format)
        ours, _ = rules(3136, 50176).patches(decode_image(buffer.getvalue()))
        theirs, _ = published(Image.open(io.BytesIO(buffer.getvalue())), 3136, 50176)
        assert_equal_bits(ours, theirs)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_each_file_format_is_equal_to_the_bit(file_format: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for number in range(6):
        path = tmp_path / f"{number}.img"
        random_image(rng, "RGB", 400).save(path, file_format)
        ours, _ = rules(3136, 50176).patches(decode_image(path.read_bytes()))
        theirs, _ = published(Image.open(path), 3136, 50176)
        assert_equal_bits(ours, theirs)


def test_palette_with_transparency_is_equal_to_the_bit() -> None:
    rng = np.random.default_rng(13)
    for _ in range(12):
        image = random_image(rng, "P", 200)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", transparency=bytes(rng.integers(0, 256, 256, dtype=np.uint8)))
        ours, _ = rules(3136, 50176).patches(decode_image(buffer.getvalue()))
        theirs, _ = published(Image.open(io.BytesIO(buffer.getvalue())), 3136, 50176)
        assert_equal_bits(ours, theirs)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_that_of_pillow(orientation: int) -> None:
    from PIL import ImageOps

    image = random_image(np.random.default_rng(17), "RGB", 200)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    theirs, _ = published(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))), 3136, 50176)
    assert_equal_bits(rules(3136, 50176).patches(decode_image(buffer.getvalue()))[0], theirs)


def test_equals_normalising_first_and_geometry_patchify() -> None:
    image = random_image(np.random.default_rng(19))
    found, (_, rows, columns) = rules(3136, 50176).patches(image)
    resized = np.asarray(image.resize((columns * 14, rows * 14), Image.Resampling.BICUBIC))
    levels = normalised_levels(MEAN, DEVIATION, 1 / 255)
    normalised = np.stack([levels[c][resized[:, :, c]] for c in range(3)], axis=-1)
    assert_equal_bits(found, patchify(normalised, VISION))


# In levels of 255, and in normalised units: a level over the deviation.
LEVELS_PER_UNIT = 255 * np.repeat(DEVIATION, 2 * 14 * 14)


def levels_off(image: Image.Image, limits: tuple[int, int]) -> np.ndarray:
    """Give by how many levels the torchvision-based processor is off, for each number of each patch."""
    ours, grid = rules(*limits).patches(image)
    theirs, their_grid = published(image, *limits, kind="torchvision")
    assert list(grid) == their_grid
    return np.abs(ours - theirs) * LEVELS_PER_UNIT


def resizes_rows_first(image: Image.Image, limits: tuple[int, int]) -> bool:
    """Say whether Pillow resizes this image in torch's order, along rows first; it takes the cheaper pass first."""
    _, rows, columns = rules(*limits).grid(image.height, image.width)
    height, width = rows * 14, columns * 14
    along_rows = image.resize((width, image.height), Image.Resampling.BICUBIC)
    at_once = image.resize((width, height), Image.Resampling.BICUBIC)
    return along_rows.resize((width, height), Image.Resampling.BICUBIC).tobytes() == at_once.tobytes()


def test_torchvision_processor_differs_by_two_levels_where_both_resize_along_rows_first(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed: its difference is not measured")
    rng = np.random.default_rng(23)
    largest, compared = 0.0, 0
    while compared < 60:
        image = random_image(rng)
        if not resizes_rows_first(image, (3136, 262144)):
            continue
        compared += 1
        largest = max(largest, float(levels_off(image, (3136, 262144)).max()))
    record_testsuite_property("images.torchvision_levels", round(largest, 3))
    # The two resizers round differently between their passes.
    assert largest <= 2.01


def test_torchvision_processor_differs_by_the_order_of_passes_elsewhere(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed: its difference is not measured")
    rng = np.random.default_rng(24)
    found = {}
    # 120 x 160 becomes 112 x 168, which Pillow resizes along columns first. Between the passes levels are clipped.
    for name, levels in (
        ("noise", rng.integers(0, 256, (120, 160, 3))),
        ("black_and_white", rng.integers(0, 2, (120, 160, 3)) * 255),
    ):
        off = levels_off(Image.fromarray(levels.astype(np.uint8)), (3136, 50176))
        found[name] = float(off.max())
        record_testsuite_property(f"images.torchvision_levels.{name}", round(found[name], 3))
        record_testsuite_property(f"images.torchvision_mean_levels.{name}", round(float(off.mean()), 3))
    assert max(found.values()) <= 48


def published_processor() -> Any:
    """Give HF's whole processor on the tiny checkpoint, without its video half, which needs torchvision."""
    from transformers import AutoTokenizer
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

    pil = pytest.importorskip(
        "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl", reason="this transformers has no pillow processor"
    )

    class ImagesAndText(Qwen2_5_VLProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    return ImagesAndText(
        pil.Qwen2VLImageProcessorPil.from_pretrained(str(TINY)),
        AutoTokenizer.from_pretrained(str(TINY), local_files_only=True),
        chat_template=(TINY / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def test_prompts_with_images_equal_the_whole_published_processor() -> None:
    theirs = published_processor()
    limits = json.loads((TINY / "preprocessor_config.json").read_text())
    spec = load_spec(TINY)
    ours = load_processor(TINY, spec, min_pixels=limits["min_pixels"], max_pixels=limits["max_pixels"])
    rng = np.random.default_rng(29)
    for number in range(40):
        images = [random_image(rng, "RGB", 500) for _ in range(number % 4)]
        text = ("Which digit is this?", "图 e\u0301 😀\n\n", "  two  spaces ", "\nnew line")[number % 4 - 1] + str(
            number
        )
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        rendered = theirs.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        expected = theirs(text=[rendered], images=images or None, return_tensors="np")
        found = build_prompt(ours, images, text)
        assert found.input_ids.tolist() == np.asarray(expected["input_ids"])[0].tolist()
        if images:
            assert found.grids.tolist() == np.asarray(expected["image_grid_thw"]).tolist()
            assert_equal_bits(found.patches, np.asarray(expected["pixel_values"]))
