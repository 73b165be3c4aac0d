"""[data]: which samples, how large their media are, and which tokens are learned.

Evaluation and inference use `image` and `video` only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from qvl_core.recipe.sections.data_sources import SourceSection, ValidationSection
from qvl_core.recipe.sections.media import ImageSection, VideoSection
from qvl_core.recipe.sections.section import PathText, Section, section_defaults


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
    balance: Literal["none", "length"] = Field(
        default="none",
        description="How the samples of a step are dealt to micro batches and replicas: none (as they come) or length "
        "(equal amounts of tokens). The samples of a step are the same. Default none.",
        examples=["length"],
    )
    streaming: bool = Field(
        default=False,
        description="Read and check records as training goes, for data too large to index first. Default false: exact "
        "shuffling, and every record is checked before the first step.",
        examples=[False],
    )
    shuffle_buffer: int = Field(
        default=16_384,
        ge=1,
        le=100_000_000,
        description="With streaming: samples among which the next one is drawn. Default 16384.",
        examples=[16384],
    )
    media_check: Literal["decode", "header"] = Field(
        default="decode",
        description="How images are checked before a run: decode (finds truncated ones) or header (fast; the rest is "
        "found during training). Default decode. Streaming checks none before the run.",
        examples=["header"],
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        default="stop",
        description="What a sample that cannot be used does to the run: stop it, or be replaced by another and logged "
        "with file and line. Default stop.",
        examples=["skip"],
    )
    max_bad_samples: int = Field(
        default=100,
        ge=1,
        le=1_000_000_000,
        description="With on_bad_sample = 'skip': how many a run may meet before it stops all the same. Default 100.",
        examples=[100],
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
    grounding: Literal["resized", "norm1000"] = Field(
        default="resized",
        description="Frame in which boxes and points of `objects` are written into the text: resized (pixels of the "
        "image as the model sees it, what Qwen2.5-VL was trained with) or norm1000 (0 to 1000). Default resized.",
        examples=["resized"],
    )
    vision_cache: bool = Field(
        default=False,
        description="Compute the vision features of each medium once and keep them in cache_dir. Needs vision and "
        "merger frozen. Default false.",
        examples=[False],
    )
    sample_timeout_s: float = Field(
        default=600.0,
        gt=0,
        le=86_400,
        description="Longest time that the making of one sample may take, seconds; then the run stops and names it. "
        "Default 600.",
        examples=[600.0],
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
        description="Folder that keeps what saves time: checked media, the index of samples, blocks and packs of "
        "streams, vision features (large); on a local disk of each node. Default .qvl-cache.",
        examples=[".qvl-cache"],
    )
