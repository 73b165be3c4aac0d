"""A few frames of a video for a page, small and evenly spread: to look at, not what a model sees.

Decoded in the killable process like every video. A page shall take seconds: files that are large are not opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from qvl_core.errors import RunError

from qvl_data.media.error import MediaError
from qvl_data.media.video_facts import VideoFacts
from qvl_data.media.video_process import VideoProcesses, shared_processes

# Read twice, for its digest and for its frames.
MAX_STILLS_BYTES = 256 * 1024**2
_LIMIT = "for a page"


@dataclass(frozen=True, kw_only=True)
class VideoStills:
    """Frames of a video: `images` are RGB, at most `side` pixels a side; `times_s` is when each is shown."""

    facts: VideoFacts
    images: tuple[Image.Image, ...]
    times_s: tuple[float, ...]


def video_stills(
    path: Path, *, count: int, side: int, timeout_s: float, processes: VideoProcesses | None = None
) -> VideoStills:
    """Give `count` frames from the first to the last one, fewer of a shorter video.

    Raises MediaError for what is no video, is damaged, large or slow, and where nothing that decodes is installed.
    """
    if not _has_decoder():
        raise MediaError("PyAV, which decodes videos, is not installed (pip install av)")
    size = _size(path)
    if size > MAX_STILLS_BYTES:
        raise MediaError(f"has {size:,} bytes, too many to be opened for a page")
    ask = (processes or shared_processes()).ask
    try:
        facts = VideoFacts(**ask(path, {"do": "probe"}, timeout_s=timeout_s, limit=_LIMIT).found)
        numbers = np.unique(np.linspace(0, facts.frames - 1, count).round().astype(int)).tolist()
        height, width = _reduced(facts.height, facts.width, side)
        request = {
            "do": "load",
            "digest": facts.digest,
            "numbers": numbers,
            "shown": (facts.height, facts.width),
            "resized": (height, width),
        }
        reply = ask(path, request, timeout_s=timeout_s, limit=_LIMIT)
    except RunError as error:
        raise MediaError(str(error).splitlines()[0]) from None
    images = tuple(Image.frombytes("RGB", (width, height), pixels) for pixels in reply.frames)
    return VideoStills(facts=facts, images=images, times_s=tuple(reply.found["times_s"]))


def _has_decoder() -> bool:
    try:
        return find_spec("av") is not None
    except ValueError:
        # Somebody has blocked it.
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}") from None


def _reduced(height: int, width: int, side: int) -> tuple[int, int]:
    """Give (height, width) with the longer side at most `side`, the shape kept; small ones stay as they are."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
