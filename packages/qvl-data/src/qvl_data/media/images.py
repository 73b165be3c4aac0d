"""Image files to RGB pixels, with every rule stated: which formats, which sizes, which of several meanings of a pixel.

- Formats: JPEG, PNG, WEBP, BMP, GIF by content, not by suffix. Anything else is refused (EPS would start Ghostscript).
- At most MAX_SOURCE_PIXELS pixels, known from the header before anything is decoded.
- EXIF orientation is applied. Animated files give their first frame.
- Alpha and palette transparency are laid on white, as the published image processor does. 16-bit grey keeps the high
  byte, as Pillow does for 16-bit colour. CMYK and the rest go through Pillow's `convert("RGB")`.
- A truncated file is an error; Pillow's switch to accept one is never set.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from qvl_core.errors import DataError
from qvl_core.input_file import read_regular_file

from qvl_data.media.error import MediaError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Pillow's own limit, above which it warns of a decompression bomb; here it is an error.
MAX_SOURCE_PIXELS = 89_478_485
MAX_FILE_BYTES = 256 * 1024**2
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class ImageError(MediaError):
    """An image that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What is known of a checked file: size in pixels as it is shown (after EXIF orientation), sha256 of its bytes."""

    height: int
    width: int
    digest: str


def check_image(path: Path, *, decode: bool = True) -> ImageFacts:
    """Decode a file as cheaply as truncation can still be seen, and give its facts. Raises ImageError.

    Without `decode` only headers are read: size and orientation are as certain, damage further on is not seen.
    """
    data = _read(path)
    image = _open(data)
    height, width = image.height, image.width
    if decode and image.format in ("JPEG", "MPO"):
        # Decoding to an eighth of the size reads the whole entropy-coded stream but skips most of the arithmetic.
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
    if decode or _may_turn_behind_pixels(image, data):
        _load(image)
    if _orientation(image) >= 5:
        height, width = width, height
    return ImageFacts(height=height, width=width, digest=hashlib.sha256(data).hexdigest())


def load_image(
    path: Path, expected: ImageFacts | None = None, *, max_source_pixels: int = MAX_SOURCE_PIXELS
) -> Image.Image:
    """Give the RGB image of a file. With `expected`, a file whose bytes have changed since is an ImageError."""
    data = _read(path)
    if expected is not None and hashlib.sha256(data).hexdigest() != expected.digest:
        raise ImageError("the file was changed after it had been checked; start the run again")
    return decode_image(data, max_source_pixels=max_source_pixels)


def decode_image(data: bytes, *, max_source_pixels: int = MAX_SOURCE_PIXELS) -> Image.Image:
    """Give the RGB image of the bytes of an image file. Raises ImageError."""
    return _upright(_open(data, max_source_pixels))


def decode_reduced(data: bytes, side: int, *, max_source_pixels: int = MAX_SOURCE_PIXELS) -> Image.Image:
    """Give the RGB image of an image file; a JPEG is reduced while it is decoded, its longer side to `side` at least.

    Several times as fast for photographs; for thumbnails, not for a model. Raises ImageError.
    """
    image = _open(data, max_source_pixels)
    if image.format in ("JPEG", "MPO"):
        longest = max(image.size)
        image.draft(None, (max(1, image.width * side // longest), max(1, image.height * side // longest)))
    return _upright(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Give an RGB image for a decoded Pillow image of any mode, by the rules in this module's docstring."""
    if image.mode in _SIXTEEN_BIT:
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        overlay = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, overlay).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _read(path: Path) -> bytes:
    try:
        data = read_regular_file(path, error_type=DataError, limit=MAX_FILE_BYTES)
    except DataError as error:
        raise ImageError(error.problems[0].message) from None
    if not data:
        raise ImageError("the file is empty: 0 bytes")
    return data


def _open(data: bytes, max_source_pixels: int = MAX_SOURCE_PIXELS) -> Image.Image:
    """Read the header only. Raises ImageError for a format outside the list and for too many pixels."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        stated = next((f"{int(found):,}" for found in re.findall(r"\((\d+) pixels\)", str(error))), "far too many")
        message = f"has {stated} pixels by its header, more than {MAX_SOURCE_PIXELS:,}; it is not decoded"
        raise ImageError(message) from None
    except Image.UnidentifiedImageError:
        start = data[:12]
        raise ImageError(f"is not a {', '.join(FORMATS)} image: it starts with {start!r}") from None
    except Exception as error:  # Pillow's readers raise nearly any exception on damaged files.
        raise ImageError(f"cannot be opened as an image: {_short(error)}") from None
    pixels = image.width * image.height
    if pixels > max_source_pixels:
        size = f"{image.width} x {image.height} = {pixels:,} pixels"
        raise ImageError(f"has {size} by its header, more than {max_source_pixels:,}; it is not decoded")
    if not pixels:
        raise ImageError(f"has {image.width} x {image.height} pixels")
    return image


def _load(image: Image.Image) -> None:
    """Decode the first frame in place. Raises ImageError."""
    try:
        image.load()
    except Exception as error:  # As above; the message is Pillow's, which is short and names the reason.
        raise ImageError(f"cannot be decoded: {_short(error)}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Decode an opened image, turn it as its EXIF says, and give it as RGB. Raises ImageError."""
    _load(image)
    turn = _TURNS.get(_orientation(image))
    return to_rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """Give the EXIF orientation, 1 to 8. Raises ImageError."""
    try:
        # A PNG asks for its pixels first, in case the tag comes behind them: `_may_turn_behind_pixels` knows better.
        exif = Image.Image.getexif(image)
        orientation = exif.get(_ORIENTATION_TAG, 1)
    except Exception as error:
        raise ImageError(f"has EXIF data that cannot be read: {_short(error)}") from None
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _may_turn_behind_pixels(image: Image.Image, data: bytes) -> bool:
    """Say whether a PNG holds EXIF or text, which may be XMP, behind its pixels, where reading the header ends."""
    if image.format != "PNG":
        return False
    at, seen_pixels = len(_PNG_SIGNATURE), False
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        if seen_pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        seen_pixels = seen_pixels or kind == b"IDAT"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
