"""[infer]: what `qvl run` asks with an infer recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from qvl_core.recipe.sections.section import PathText, Section

# TOML knows lists only.
Paths = Annotated[tuple[PathText, ...], Strict(False)]


class InferSection(Section):
    """One question, or a file of them."""

    prompt: str | None = Field(
        default=None,
        max_length=1_000_000,
        description="The question. Either this or `input`.",
        examples=["Describe the image."],
    )
    images: Paths = Field(
        default=(),
        description="Images of `prompt`, relative to the working directory. Default: none.",
        examples=[["photo.jpg"]],
    )
    videos: Paths = Field(
        default=(),
        description="Videos of `prompt`, relative to the working directory. Default: none.",
        examples=[["clip.mp4"]],
    )
    system: str | None = Field(
        default=None,
        max_length=1_000_000,
        description="System prompt. Default: the checkpoint's own.",
        examples=["Be brief."],
    )
    input: PathText | None = Field(
        default=None,
        description="File of questions, one JSON object a line; answers go to answers.jsonl in output.dir. Either this "
        "or `prompt`.",
        examples=["prompts.jsonl"],
    )
    media_root: PathText | None = Field(
        default=None,
        description="Folder of the media that `input` names. Default: the folder of `input`.",
        examples=["data/pictures"],
    )
    batch: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Questions that are answered at a time by each replica, 1 to 1024. Default 8.",
        examples=[8],
    )
