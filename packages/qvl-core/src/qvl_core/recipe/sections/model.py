"""[model]: which Qwen2.5-VL, which parts of it train, and in which number format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qvl_core.recipe.sections.section import Components, PathText, Section


class ModelSection(Section):
    """Exactly one of `name` and `config` says which model it is."""

    name: PathText | None = Field(
        default=None,
        description="A model spec shipped with qvl-core, see `qvl recipes`. Either this or `config`.",
        examples=["qwen2.5-vl-7b"],
    )
    config: PathText | None = Field(
        default=None,
        description="Path of an HF config.json of the family, or of a folder that holds one, relative to the working "
        "directory: for a resized or pruned model. Either this or `name`.",
        examples=["ckpt/my-model/config.json"],
    )
    freeze: Components = Field(
        default=(),
        max_length=3,
        description="Components that do not train: any of vision, merger, text. Default none: full fine-tuning. With "
        "[train.lora] all of the model's weights are frozen, whatever is stated here.",
        examples=[["vision", "merger"]],
    )
    dtype: Literal["bfloat16", "float32"] | None = Field(
        default=None,
        description="Number format of weights and activations. Default: bfloat16 on Ascend (the published weights), "
        "float32 on CPU (MindSpore has no bfloat16 matmul there). Training keeps float32 master weights, gradient sums "
        "and moments either way.",
        examples=["bfloat16"],
    )
