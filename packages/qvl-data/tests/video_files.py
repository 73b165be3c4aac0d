"""Videos for tests, encoded with PyAV: frames that differ, in many codecs and group structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from qvl_core.specs.model_spec import VisionSpec
from qvl_data.media.video import VideoRules


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Give frame `number`, uint8 [height, width, 3]: gradients that move at different speeds."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 3 + number * 5, y * 2 + number * 7, x + y + number * 11)
    return np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)


def save_video(
    path: Path,
    *,
    frames: int = 40,
    height: int = 96,
    width: int = 128,
    fps: int | Fraction = 25,
    codec: str = "libx264",
    group: int = 12,
    b_frames: int = 2,
    options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    clock: Fraction | None = None,
    container_options: Mapping[str, str] | None = None,
    pixel_format: str = "yuv420p",
) -> Path:
    """Write a video; `times` in ticks of `clock` seconds make a variable frame rate. Gives the path."""
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.gop_size = group
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = b_frames
        if clock is not None:
            stream.codec_context.time_base = clock
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = clock or 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def save_sound(path: Path) -> Path:
    """Write a file with one audio stream and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def all_frames(path: Path) -> list[np.ndarray]:
    """Decode everything, uint8 [height, width, 3] each, in order of showing: what chosen frames are compared with."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def turn_mp4(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a, b, c, d of the display matrix of the first track, in units of 1, over those of an mp4."""
    data = bytearray(path.read_bytes())
    # Version 0 of `tkhd`: the matrix of nine 32-bit numbers starts 44 bytes after the name.
    start = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[start + place : start + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def video_rules(vision: VisionSpec, levels: NDArray[np.float32], **changes: object) -> VideoRules:
    """Give small limits with some of them changed."""
    settings: dict[str, object] = {
        "sampling": "qwen",
        "fps": 2.0,
        "min_frames": 4,
        "max_frames": 64,
        "min_pixels": 3136,
        "max_pixels": 50176,
        "total_pixels": None,
    }
    return VideoRules(vision=vision, levels=levels, **{**settings, **changes})
