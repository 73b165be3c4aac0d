"""Small pictures for a page, as data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image

from qvl_data.inspection.report import Thumbnail

# JPEG of photographs; small pictures stay exact.
_PNG_PIXELS = 64 * 64
_QUALITY = 72


def thumbnail(image: Image.Image, caption: str, *, side: int) -> Thumbnail:
    """Give an RGB image shrunk to at most `side` pixels a side; tiny ones are enlarged without smoothing."""
    shown = image.copy()
    largest = max(image.size)
    if largest > side:
        shown.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    wide, high = shown.size
    factor = max(1, side // (2 * largest)) if largest <= side else 1
    uri = data_uri(shown, exact=wide * high <= _PNG_PIXELS, quality=_QUALITY)
    return Thumbnail(caption=caption, uri=uri, width=wide * factor, height=high * factor)


def data_uri(image: Image.Image, *, exact: bool, quality: int) -> str:
    """Give an image as PNG where `exact`, else as JPEG of a quality from 1 to 95."""
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
