"""[weights]: where the weights come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qvl_core.recipe.sections.section import PathText, Section


class WeightsSection(Section):
    """A folder with weights, tokenizer and processor."""

    source: PathText = Field(
        description="Folder of the weights, relative to the working directory. An HF folder or a sharded folder: found "
        "out, not declared. With init = 'random' only its config, tokenizer and processor files are read.",
        examples=["ckpt/hf/Qwen2.5-VL-7B-Instruct"],
    )
    init: Literal["checkpoint", "random"] = Field(
        default="checkpoint",
        description="Start from the weights of `source`, or from random ones drawn with train.seed. "
        "Default 'checkpoint': fine-tuning.",
        examples=["checkpoint"],
    )
    adapter: PathText | None = Field(
        default=None,
        description="Folder of a LoRA adapter that is merged into the weights while they are loaded, for answers "
        "only: a PEFT folder, or a checkpoint of a run with [train.lora], of any layout. Default: none.",
        examples=["runs/7b_lora_sft/adapter"],
    )
