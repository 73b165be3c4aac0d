"""[data.image] and [data.video]: how large media are for the model, and which frames of a video it sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qvl_core.recipe.sections.section import Section

VideoSampling = Literal["qwen", "transformers", "mindspeed"]
MAX_PIXELS = 1_000_000_000


class ImageSection(Section):
    """Bounds on an image's area before it is cut into patches; 28 x 28 pixels make one token."""

    min_pixels: int = Field(
        default=3136,
        ge=1,
        le=MAX_PIXELS,
        description="Smallest area of an image, pixels; smaller ones are enlarged. Default 3136: 4 tokens.",
        examples=[3136],
    )
    max_pixels: int = Field(
        default=262_144,
        ge=1,
        le=MAX_PIXELS,
        description="Largest area of an image, pixels; larger ones are shrunk. Default 262144: about 334 tokens, "
        "what the reference recipes train with.",
        examples=[262144],
    )


class VideoSection(Section):
    """How videos are sampled, and bounds on the area of a frame; two frames of 28 x 28 pixels make one token."""

    sampling: VideoSampling = Field(
        default="qwen",
        description="Rule that chooses frames: qwen (qwen-vl-utils 0.0.14, what the model was trained with), "
        "transformers (its video processor's) or mindspeed (the reference stack's). Default qwen.",
        examples=["qwen"],
    )
    fps: float = Field(
        default=2.0,
        gt=0,
        le=240,
        description="Frames taken per second of video. Default 2.0: what the model was trained with.",
        examples=[2.0],
    )
    max_frames: int = Field(
        default=64,
        ge=2,
        le=100_000,
        description="Most frames taken of one video, evenly spaced, at least 2. Default 64.",
        examples=[64],
    )
    min_frames: int = Field(
        default=4,
        ge=1,
        le=100_000,
        description="Fewest frames taken of one video that has as many, at most max_frames. Default 4: qwen-vl-utils'. "
        "The rule mindspeed does not use it.",
        examples=[4],
    )
    total_pixels: int | None = Field(
        default=None,
        ge=1,
        le=1_000 * MAX_PIXELS,
        description="Largest area of all pairs of frames of a video together, pixels; long videos get smaller frames, "
        "down to min_pixels. Default: no bound but max_pixels a frame.",
        examples=[20_000_000],
    )
    timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="Longest time that opening and decoding one video may take, seconds; then its worker is killed. "
        "Default 60.",
        examples=[60.0],
    )
    min_pixels: int = Field(
        default=12_544,
        ge=1,
        le=MAX_PIXELS,
        description="Smallest area of a frame, pixels. Default 12544: 16 tokens per pair of frames.",
        examples=[12544],
    )
    max_pixels: int = Field(
        default=131_072,
        ge=1,
        le=MAX_PIXELS,
        description="Largest area of a frame, pixels. Default 131072: about 167 tokens per pair of frames.",
        examples=[131072],
    )
