"""Which frames of a video the model sees, by the names of `data.video.sampling`. Pure arithmetic on facts.

All rules count frames in the order of showing. Where a rule leans on float32 arithmetic of torch, that is followed to
the bit, because half-way cases move a frame by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qvl_core.recipe.sections.media import VideoSampling

from qvl_data.media.video_facts import VideoFacts

# qwen-vl-utils' FRAME_FACTOR; equal to the temporal patch size of every released model.
_FACTOR = 2
_MINDSPEED_FPS = 2.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What of `[data.video]` chooses frames: frames per second, fewest and most frames."""

    fps: float
    min_frames: int
    max_frames: int


@dataclass(frozen=True, kw_only=True)
class SampledFrames:
    """Numbers of the chosen frames, int64 [n], rising; and the frames per second that they make."""

    indices: NDArray[np.int64]
    sample_fps: float


def sample_frames(sampling: VideoSampling, facts: VideoFacts, wanted: Sampling) -> SampledFrames:
    """Choose frames by the rule of this name. A video has at least one frame, and one frame is chosen then."""
    return _RULES[sampling](facts, wanted)


def _qwen(facts: VideoFacts, wanted: Sampling) -> SampledFrames:
    """Follow qwen-vl-utils 0.0.14: an even number of frames, from the first to the last, rounded to whole frames.

    A video with one frame, which that rule refuses, gives it.
    """
    total, rate = facts.frames, _rate(facts, wanted)
    fewest = math.ceil(wanted.min_frames / _FACTOR) * _FACTOR
    most = math.floor(wanted.max_frames / _FACTOR) * _FACTOR
    count = _floor_even(min(min(max(total / rate * wanted.fps, fewest), most), total))
    indices = _round_even_spaced(total, max(count, 1))
    return SampledFrames(indices=indices, sample_fps=len(indices) / total * rate)


def _transformers(facts: VideoFacts, wanted: Sampling) -> SampledFrames:
    """Follow HF's Qwen2VLVideoProcessor (transformers 5.24): every (total / n)-th frame from the first, cut to whole.

    Its `arange` gives one frame too many, behind the end, where total / n is rounded down; that one is left out.
    """
    total, rate = facts.frames, _rate(facts, wanted)
    most = _floor_even(min(wanted.max_frames, total))
    count = max(_floor_even(min(max(total / rate * wanted.fps, wanted.min_frames), most, total)), 1)
    steps = (np.arange(count) * (total / count)).astype(np.float32)
    indices = np.minimum(steps.astype(np.int64), total - 1)
    return SampledFrames(indices=indices, sample_fps=count / total * rate)


def _mindspeed(facts: VideoFacts, wanted: Sampling) -> SampledFrames:
    """Follow the reference stack: floor(duration x fps) frames from the first to the last, cut to whole frames.

    Of a container that does not state its frame count, the first `max_frames` frames. `min_frames` is not used. An
    unknown duration gives 2 frames per second.
    """
    total, duration = facts.frames, facts.duration_s
    if facts.is_counted:
        indices = np.arange(min(total, wanted.max_frames), dtype=np.int64)
    else:
        count = max(math.floor(min(duration * wanted.fps, total, wanted.max_frames)), 1)
        indices = np.linspace(0, total - 1, count).astype(np.int64)
    rate = len(indices) / duration if duration > 0 else _MINDSPEED_FPS
    return SampledFrames(indices=indices, sample_fps=rate)


_RULES: Mapping[VideoSampling, Callable[[VideoFacts, Sampling], SampledFrames]] = {
    "qwen": _qwen,
    "transformers": _transformers,
    "mindspeed": _mindspeed,
}


def _rate(facts: VideoFacts, wanted: Sampling) -> float:
    # Without a rate, all frames are taken for what was asked.
    return facts.fps if facts.fps > 0 else wanted.fps


def _floor_even(count: float) -> int:
    return math.floor(count / _FACTOR) * _FACTOR


def _round_even_spaced(total: int, count: int) -> NDArray[np.int64]:
    """Give torch's `linspace(0, total - 1, count).round()`, int64 [count].

    Its kernel walks from both ends in float32; the product and difference of the upper half are rounded once, together.
    """
    if count == 1:
        return np.zeros(1, np.int64)
    numbers = np.arange(count)
    step = np.float32(total - 1) / np.float32(count - 1)
    lower = step * numbers.astype(np.float32)
    upper = (float(total - 1) - float(step) * (count - 1 - numbers)).astype(np.float32)
    return np.where(numbers < count // 2, lower, upper).round().astype(np.int64)
