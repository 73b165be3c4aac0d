"""Videos to the patches that the vision encoder reads, with the time of each frame.

A plan is pure arithmetic on a video's facts: which frames, how large, how far apart in time. Loading has them decoded
and resized in a process of their own (video_process.py), by the same resizing as images: HF's pillow-based one.

Times. Where frames are evenly spaced, temporal slice i of a video lies i x seconds_per_grid after its start, as HF's
processor says, so that positions equal HF's. Where they are not (variable frame rate), the frames are still chosen by
number, as qwen-vl-utils chooses them, but each slice has the time at which its first frame is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import DataError
from qvl_core.geometry import smart_resize
from qvl_core.input_file import open_regular_file
from qvl_core.recipe.sections.media import VideoSampling
from qvl_core.specs.model_spec import VisionSpec

from qvl_data.media.error import MediaError
from qvl_data.media.pixels import patches_of_frames
from qvl_data.media.video_facts import VideoFacts
from qvl_data.media.video_process import VideoProcesses, shared_processes
from qvl_data.media.video_sampling import Sampling, sample_frames

# qwen-vl-utils: the budget of a video counts pairs of frames, since two frames of an area make the tokens of one image.
_FRAME_FACTOR = 2
_LEAST_SLACK = 1.05


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """What will be seen of a video.

    `indices` int64 [n] numbers the frames in order of showing; `grid` is (t, h, w) in patches, `size` (height, width)
    of a resized frame in pixels; `seconds_per_grid` lies between temporal slices; `times_s` float64 [n] are the frames'
    times at the average rate, which for a file of variable rate only `load_video` knows better.
    """

    indices: NDArray[np.int64]
    sample_fps: float
    seconds_per_grid: float
    grid: tuple[int, int, int]
    size: tuple[int, int]
    times_s: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class VideoPatches:
    """A loaded video: patches float32 [P, patch_dim], grid (t, h, w) in patches, seconds between temporal slices.

    `times_s` float64 [n] is when each frame is shown, seconds from the file's first frame. `slice_seconds` float64 [t]
    is when each slice starts, from the first slice on, for a video of variable rate; None where `seconds_per_grid`
    says it.
    """

    patches: NDArray[np.float32]
    grid: tuple[int, int, int]
    seconds_per_grid: float
    times_s: NDArray[np.float64]
    slice_seconds: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class VideoRules:
    """Everything between a video and its patches. `levels` is float32 [channels, 256]: normalised pixel levels."""

    sampling: VideoSampling
    fps: float
    min_frames: int
    max_frames: int
    min_pixels: int
    max_pixels: int
    total_pixels: int | None
    vision: VisionSpec
    levels: NDArray[np.float32]

    def plan(self, facts: VideoFacts, max_pixels: int | None = None) -> VideoPlan:
        """Choose frames and their size; `max_pixels` lowers the limit for one video. Raises GeometryError."""
        wanted = Sampling(fps=self.fps, min_frames=self.min_frames, max_frames=self.max_frames)
        sampled = sample_frames(self.sampling, facts, wanted)
        limit = self._frame_limit(len(sampled.indices), max_pixels)
        factor = self.vision.patch_size * self.vision.spatial_merge_size
        size = smart_resize(facts.height, facts.width, factor=factor, min_pixels=self.min_pixels, max_pixels=limit)
        slices = -(-len(sampled.indices) // self.vision.temporal_patch_size)
        rate = facts.fps if facts.fps > 0 else sampled.sample_fps
        return VideoPlan(
            indices=sampled.indices,
            sample_fps=sampled.sample_fps,
            seconds_per_grid=self.vision.temporal_patch_size / sampled.sample_fps,
            grid=(slices, size[0] // self.vision.patch_size, size[1] // self.vision.patch_size),
            size=size,
            times_s=sampled.indices / rate,
        )

    def grid(self, facts: VideoFacts, max_pixels: int | None = None) -> tuple[int, int, int]:
        """Give the grid (t, h, w) in patches of a video. Raises GeometryError."""
        return self.plan(facts, max_pixels).grid

    def _frame_limit(self, frames: int, max_pixels: int | None) -> float:
        """Give the largest area of a frame: its own bound, and its share of the video's (qwen-vl-utils 0.0.14)."""
        limits: list[float] = [self.max_pixels]
        if self.total_pixels is not None:
            share = self.total_pixels / frames * _FRAME_FACTOR
            limits.append(max(share, int(self.min_pixels * _LEAST_SLACK)))
        if max_pixels is not None:
            limits.append(max_pixels)
        return min(limits)


def probe_video(path: Path, *, timeout_s: float, processes: VideoProcesses | None = None) -> VideoFacts:
    """Give the facts of a video from its container; one frame is decoded, for its rotation, and none is looked at.

    Raises MediaError for what is no video, is damaged, or takes longer than `timeout_s`.
    """
    _check_regular(path)
    reply = (processes or shared_processes()).ask(path, {"do": "probe"}, timeout_s=timeout_s)
    return VideoFacts(**reply.found)


def load_video(
    path: Path,
    facts: VideoFacts,
    rules: VideoRules,
    *,
    max_pixels: int | None = None,
    timeout_s: float,
    processes: VideoProcesses | None = None,
) -> VideoPatches:
    """Decode the planned frames of a video whose facts are known, and give their patches.

    Raises MediaError as `probe_video` does, also for a file that changed since; GeometryError for an impossible size.
    """
    _check_regular(path)
    plan = rules.plan(facts, max_pixels)
    numbers, places = np.unique(plan.indices, return_inverse=True)
    request = {
        "do": "load",
        "digest": facts.digest,
        "numbers": numbers.tolist(),
        "shown": (facts.height, facts.width),
        "resized": plan.size,
    }
    reply = (processes or shared_processes()).ask(path, request, timeout_s=timeout_s)
    height, width = plan.size
    frames = [np.frombuffer(reply.frames[place], np.uint8).reshape(height, width, -1) for place in places.tolist()]
    times = np.array(reply.found["times_s"], np.float64)[places]
    # A file whose times are unknown has those of its average rate.
    times = np.where(np.isnan(times), plan.times_s, times)
    return VideoPatches(
        patches=patches_of_frames(frames, rules.levels, rules.vision),
        grid=plan.grid,
        seconds_per_grid=plan.seconds_per_grid,
        times_s=times,
        slice_seconds=(times - times[0])[:: rules.vision.temporal_patch_size] if facts.is_variable else None,
    )


def _check_regular(path: Path) -> None:
    """Refuse what is no regular file before a process is asked for."""
    try:
        open_regular_file(path, error_type=DataError).close()
    except DataError as error:
        raise MediaError(error.problems[0].message) from None
