"""What others make of a video: qwen-vl-utils with decord, HF's video processor, HF's sampling rule.

decord is the reader that qwen-vl-utils finds in this session: torchcodec wants a torch of its own build, and
torchvision has no reader any more.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from qvl_data.media.video import VideoRules

if "requests" not in sys.modules and importlib.util.find_spec("requests") is None:
    # qwen-vl-utils imports it for addresses, of which there are none here.
    sys.modules["requests"] = types.ModuleType("requests")

vision_process: Any = pytest.importorskip("qwen_vl_utils.vision_process")
decord: Any = pytest.importorskip("decord")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A video as the others' processor hands it to the model; `frames` float32 [n, C, H, W] before HF's part."""

    indices: list[int]
    sample_fps: float
    seconds_per_grid: float
    grid: list[int]
    patches: NDArray[np.float32]
    frames: NDArray[np.float32]


def by_qwen_vl_utils(path: Path, rules: VideoRules) -> Seen:
    """Read and resize with qwen-vl-utils, then run HF's processor of Qwen2.5-VL, as its model card says."""
    element: dict[str, Any] = {
        "video": str(path),
        "fps": rules.fps,
        "min_frames": rules.min_frames,
        "max_frames": rules.max_frames,
        "min_pixels": rules.min_pixels,
        "max_pixels": rules.max_pixels,
    }
    if rules.total_pixels is not None:
        element["total_pixels"] = rules.total_pixels
    (frames, metadata), sample_fps = vision_process.fetch_video(
        element, return_video_sample_fps=True, return_video_metadata=True
    )
    assert metadata["video_backend"] == "decord"
    found = hf_processor(784, 10**9)(
        videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_metadata=True, return_tensors="np"
    )
    return Seen(
        indices=list(metadata["frames_indices"]),
        sample_fps=sample_fps,
        seconds_per_grid=rules.vision.temporal_patch_size / found["video_metadata"][0].sampled_fps,
        grid=np.asarray(found["video_grid_thw"])[0].tolist(),
        patches=np.asarray(found["pixel_values_videos"]),
        frames=frames.numpy(),
    )


def by_transformers(path: Path, rules: VideoRules) -> Seen:
    """Read with HF's own PyAV reader and sampling rule, then run its processor."""
    from transformers.video_utils import load_video

    processor = hf_processor(rules.min_pixels, rules.max_pixels)

    def sample(metadata: Any, **_: object) -> torch.Tensor:
        limits = {"min_frames": rules.min_frames, "max_frames": rules.max_frames}
        return processor.sample_frames(metadata, fps=rules.fps, **limits)

    frames, metadata = load_video(str(path), backend="pyav", sample_indices_fn=sample)
    found = processor(
        videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_metadata=True, return_tensors="np"
    )
    sampled_fps = found["video_metadata"][0].sampled_fps
    return Seen(
        indices=metadata.frames_indices.tolist(),
        sample_fps=sampled_fps,
        seconds_per_grid=rules.vision.temporal_patch_size / sampled_fps,
        grid=np.asarray(found["video_grid_thw"])[0].tolist(),
        patches=np.asarray(found["pixel_values_videos"]),
        frames=np.asarray(frames, np.float32).transpose(0, 3, 1, 2),
    )


def hf_processor(min_pixels: int, max_pixels: int) -> Any:
    """Give HF's video processor with these bounds on a frame."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    return Qwen2VLVideoProcessor(
        size={"shortest_edge": min_pixels, "longest_edge": max_pixels}, cap_pixels_per_frame=False
    )


def decord_frames(path: Path) -> NDArray[np.uint8]:
    """Give all frames as decord decodes them, uint8 [F, H, W, 3].

    One after another: asked for some of them, decord 0.6 gives wrong ones of MPEG-4 with B frames.
    """
    reader = decord.VideoReader(str(path))
    return np.stack([reader[number].asnumpy() for number in range(len(reader))])


def linspace_indices(total: int, count: int) -> list[int]:
    """Give the frame numbers of qwen-vl-utils' readers."""
    return torch.linspace(0, total - 1, count).round().long().tolist()


def smart_frames(total: int, fps: float, rules: VideoRules) -> int:
    """Give qwen-vl-utils' count of frames; raises ValueError below 2."""
    element = {"fps": rules.fps, "min_frames": rules.min_frames, "max_frames": rules.max_frames}
    return vision_process.smart_nframes(element, total_frames=total, video_fps=fps)


def hf_indices(total: int, fps: float, rules: VideoRules) -> list[int]:
    """Give HF's sampled frame numbers, which may go one behind the end."""
    from transformers.video_utils import VideoMetadata

    metadata = VideoMetadata(total_num_frames=total, fps=fps)
    limits = {"min_frames": rules.min_frames, "max_frames": rules.max_frames}
    return hf_processor(784, 10**6).sample_frames(metadata, fps=rules.fps, **limits).tolist()
