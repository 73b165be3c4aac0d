"""Sampled video frames per second: qvl, qwen-vl-utils and HF's readers with HF's processor, PyAV's decoding alone."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import av
import numpy as np
from qvl_data.media.video import VideoRules, load_video, probe_video
from qvl_data.media.video_process import VideoProcesses

from media_sides.clock import Side
from media_sides.pictures import LEVELS, VISION, photograph

HEIGHT, WIDTH, RATE = 720, 1280, 25
MIN_PIXELS = 128 * 28 * 28
TIMEOUT_S = 600.0


def save_clip(path: Path, frames: int, group: int) -> Path:
    """Write a clip whose camera moves over a photograph: H.264, 720p, a key frame every `group` frames."""
    scene = photograph(HEIGHT + 192, WIDTH + 320)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = group
        for number in range(frames):
            top, left = (int(side * (0.5 + 0.5 * np.sin(number / 40 + side))) for side in (190, 318))
            shown = np.ascontiguousarray(scene[top : top + HEIGHT, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def video_sides(path: Path, max_pixels: int, processes: VideoProcesses) -> dict[str, Side]:
    """Give each side; units are sampled frames, and for the limit all frames of the file."""
    rules = VideoRules(
        sampling="qwen",
        fps=2.0,
        min_frames=4,
        max_frames=64,
        min_pixels=MIN_PIXELS,
        max_pixels=max_pixels,
        total_pixels=None,
        vision=VISION,
        levels=LEVELS,
    )
    facts = probe_video(path, timeout_s=TIMEOUT_S, processes=processes)
    sampled = len(rules.plan(facts).indices)
    qwen, transformers = _published(path, max_pixels)
    return {
        "qvl": Side(
            units=sampled, call=lambda: load_video(path, facts, rules, timeout_s=TIMEOUT_S, processes=processes)
        ),
        "qwen-vl-utils (decord) + HF's processor": Side(units=sampled, call=qwen),
        "transformers' PyAV reader + HF's processor": Side(units=sampled, call=transformers),
        "PyAV, whole decoding, per sampled frame": Side(units=sampled, call=lambda: _decode(path)),
        "PyAV, whole decoding, per frame": Side(units=facts.frames, call=lambda: _decode(path)),
        "qvl, probing, per file": Side(
            units=1, call=lambda: probe_video(path, timeout_s=TIMEOUT_S, processes=processes)
        ),
    }


def _published(path: Path, max_pixels: int) -> tuple[Any, Any]:
    """Give calls that read, sample, resize and cut into patches as the model card does, and with HF's own reader."""
    if "requests" not in sys.modules and importlib.util.find_spec("requests") is None:
        # qwen-vl-utils imports it for addresses, of which there are none here.
        sys.modules["requests"] = types.ModuleType("requests")
    from qwen_vl_utils.vision_process import fetch_video
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.video_utils import load_video as published_load

    processor = Qwen2VLVideoProcessor(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels}, cap_pixels_per_frame=False
    )
    wide = Qwen2VLVideoProcessor(size={"shortest_edge": 784, "longest_edge": 10**9}, cap_pixels_per_frame=False)
    element = {"video": str(path), "fps": 2.0, "max_frames": 64, "min_pixels": MIN_PIXELS, "max_pixels": max_pixels}

    def qwen() -> object:
        frames, metadata = fetch_video(element, return_video_metadata=True)
        return wide(videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt")

    def transformers() -> object:
        frames, metadata = published_load(
            str(path),
            backend="pyav",
            sample_indices_fn=lambda metadata, **_: processor.sample_frames(
                metadata, fps=2.0, min_frames=4, max_frames=64
            ),
        )
        return processor(videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt")

    return qwen, transformers


def _decode(path: Path) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass
