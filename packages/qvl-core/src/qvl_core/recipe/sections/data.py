"""[data]: which samples, how large their media are, and which tokens are learned.

Evaluation and inference use `image` and `video` only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from qvl_core.recipe.sections.section import PathText, Section, section_defaults

RecordFormat = Literal["llava", "sharegpt"]
MAX_PIXELS = 1_000_000_000


class SourceSection(Section):
    """One file of records."""

    path: PathText = Field(
        description="JSON or JSON Lines file, relative to the working directory.", examples=["data/llava.json"]
    )
    format: RecordFormat = Field(
        default="llava",
        description="Shape of a record: llava (`conversations` with from/value, `image`) or sharegpt (`messages` with "
        "role/content, `images`, `videos`). Default llava: what the published instruction sets use.",
        examples=["llava"],
    )
    media_root: str = Field(
        default="",
        max_length=4096,
        description="Folder under which the media of the records lie; a path that leaves it is an error. Default: the "
        "folder of `path`.",
        examples=["data/COCO2017/train2017"],
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="How often a sample of this source is drawn, relative to the other sources. Greater than 0. "
        "Default 1.0: each sample once per epoch.",
        examples=[1.0],
    )
    max_samples: int | None = Field(
        default=None,
        ge=1,
        description="Use the first N records only, samples, at least 1. Default: all.",
        examples=[1000],
    )


class ValidationSection(Section):
    """Held-out samples: a fraction of the sources or a file of its own, not both."""

    fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Part of the samples held out, between 0 and 1, drawn with train.seed. Either this or `path`.",
        examples=[0.1],
    )
    path: PathText | None = Field(
        default=None, description="File of held-out records. Either this or `fraction`.", examples=["data/val.json"]
    )
    format: RecordFormat = Field(
        default="llava", description="Shape of a record of `path`, as in sources. Default llava.", examples=["llava"]
    )
    media_root: str = Field(
        default="",
        max_length=4096,
        description="Folder of the media of `path`. Default: the folder of `path`.",
        examples=["data/val"],
    )


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


class DataSection(Section):
    """Samples and their media."""

    sources: Annotated[tuple[SourceSection, ...], Strict(False)] = Field(
        default=(),
        max_length=1000,
        description="Files of training records, each a table with path, format, media_root, weight and max_samples. "
        "At least one for task = 'sft'.",
        examples=[[{"path": "data/llava.json", "format": "llava", "media_root": "data/COCO2017/train2017"}]],
    )
    validation: ValidationSection | None = Field(
        default=None,
        description="Held-out samples: { fraction = 0.1 } or { path = '...' }. Default: none.",
        examples=[{"fraction": 0.1}],
    )
    sequence_length: int = Field(
        default=1024,
        ge=1,
        le=10_000_000,
        description="Longest sample, tokens of text and media together, at most the model's context. Default 1024: "
        "what the reference recipes train with.",
        examples=[1024],
    )
    too_long: Literal["drop", "error", "shrink"] = Field(
        default="drop",
        description="What to do with a longer sample: leave it out and count it, stop, or shrink its media. Nothing is "
        "ever cut inside a vision span. Default drop.",
        examples=["drop"],
    )
    packing: bool = Field(
        default=False,
        description="Join short samples up to sequence_length; attention stays inside each sample. Default false: one "
        "sample is one sample.",
        examples=[False],
    )
    streaming: bool = Field(
        default=False,
        description="Read records as training goes instead of indexing all of them first. Default false: exact "
        "shuffling.",
        examples=[False],
    )
    image: ImageSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="Bounds on the area of an image.",
        examples=[{"max_pixels": 262144}],
    )
    video: VideoSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="Sampling of videos and bounds on a frame.",
        examples=[{"fps": 2.0}],
    )
    loss_on: Literal["answers", "last_answer", "all"] = Field(
        default="answers",
        description="Tokens that are learned: every answer, the last answer, or the whole conversation. Default "
        "answers.",
        examples=["answers"],
    )
    workers: int = Field(
        default=8,
        ge=0,
        le=1024,
        description="Threads that prepare samples, per training process; 0 prepares in the training process. "
        "Default 8: decoding hides behind the step.",
        examples=[8],
    )
    cache_dir: PathText = Field(
        default=".qvl-cache",
        description="Folder that remembers which media files were checked, on a local disk of each node. "
        "Default .qvl-cache.",
        examples=[".qvl-cache"],
    )
