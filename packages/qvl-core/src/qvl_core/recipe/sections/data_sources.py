"""Files of records: where they are, how their records look, and where the media of the records lie."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qvl_core.recipe.sections.section import PathText, Section

RecordFormat = Literal["llava", "sharegpt", "openai"]
Tag = Annotated[str, Field(min_length=1, max_length=256)]


class TagSection(Section):
    """Names of columns and roles where a file's differ from its format's; the keys are the reference stack's `attr`."""

    messages: Tag | None = Field(
        default=None, description="Column with the list of messages. Default: the format's.", examples=["dialog"]
    )
    images: Tag | None = Field(
        default=None, description="Column with the paths of images. Default: the format's.", examples=["pictures"]
    )
    videos: Tag | None = Field(
        default=None, description="Column with the paths of videos. Default: the format's.", examples=["clips"]
    )
    objects: Tag | None = Field(
        default=None, description="Column with boxes and points. Default `objects`.", examples=["regions"]
    )
    system: Tag | None = Field(
        default=None,
        description="Column with a system prompt, used where the messages have none. Default: no such column.",
        examples=["system"],
    )
    role_tag: Tag | None = Field(
        default=None, description="Key of a message's role. Default: the format's.", examples=["from"]
    )
    content_tag: Tag | None = Field(
        default=None, description="Key of a message's text. Default: the format's.", examples=["value"]
    )
    user_tag: Tag | None = Field(
        default=None, description="Role name of the user. Default: the format's.", examples=["human"]
    )
    assistant_tag: Tag | None = Field(
        default=None, description="Role name of the assistant. Default: the format's.", examples=["gpt"]
    )
    system_tag: Tag | None = Field(
        default=None, description="Role name of a system prompt. Default `system`.", examples=["system"]
    )
    observation_tag: Tag | None = Field(
        default=None,
        description="Role name of a tool's answer, which nobody learns. Default `observation` and `tool`.",
        examples=["observation"],
    )
    function_tag: Tag | None = Field(
        default=None,
        description="Role name of a call of a tool, learned as an answer. Default `function_call`.",
        examples=["function_call"],
    )


class SourceSection(Section):
    """One file of records."""

    path: PathText = Field(
        description="JSON, JSON Lines or Parquet file, or a folder of them (read in the order of their names), "
        "relative to the working directory.",
        examples=["data/llava.json"],
    )
    format: RecordFormat = Field(
        default="llava",
        description="Shape of a record: llava (`conversations` with from/value, `image`, `video`), sharegpt "
        "(`messages` with role/content, `images`, `videos`) or openai (`messages` whose content is a text or a list of "
        "parts). Default llava: what the published instruction sets use.",
        examples=["llava"],
    )
    tags: TagSection | None = Field(
        default=None,
        description="Names of columns and roles that differ from the format's. Default: none do.",
        examples=[{"messages": "dialog", "user_tag": "human"}],
    )
    media_root: str = Field(
        default="",
        max_length=4096,
        description="Folder under which the media of the records lie; a path that leaves it is an error. Default: the "
        "folder of `path`.",
        examples=["data/COCO2017/train2017"],
    )
    allow_outside_media_root: bool = Field(
        default=False,
        description="Also read absolute paths, `..` and symbolic links that leave media_root. Only for records that "
        "you trust like a program. Default false.",
        examples=[False],
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
    tags: TagSection | None = Field(
        default=None, description="Names of columns and roles, as in sources. Default: the format's.", examples=[{}]
    )
    media_root: str = Field(
        default="",
        max_length=4096,
        description="Folder of the media of `path`. Default: the folder of `path`.",
        examples=["data/val"],
    )
    allow_outside_media_root: bool = Field(default=False, description="As in sources. Default false.", examples=[False])
