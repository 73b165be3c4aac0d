"""Write adapters as PEFT does: `adapter_config.json` and `adapter_model.safetensors`, for `PeftModel.from_pretrained`.

Keys are those of peft 0.21.2 for `Qwen2_5_VLForConditionalGeneration` of transformers 4.52 and later: the new spelling
behind `base_model.model.`. `target_modules` is an expression, because names alone would reach into other components:
`gate_proj` is in text and vision, and `proj` is the patch embedding's name too.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from qvl_core.durable import new_folder
from qvl_core.lora_table import TARGETS, Lora
from qvl_core.params import Component
from qvl_core.weights.hf_writer import write_json
from qvl_core.weights.names import to_new
from qvl_core.weights.row_reader import OpenFiles, tensor_to_write
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.whole_tensors import WholeTensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
# Where the layers of each component lie, in the new spelling.
_PLACES: dict[Component, str] = {
    "vision": r"model\.visual\.blocks\.\d+\.(attn|mlp)\.",
    "merger": r"model\.visual\.merger\.",
    "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.",
}


def write_peft_folder(source: WholeTensors, out: Path, *, base: str) -> None:
    """Write the adapters of an opened checkpoint of adapters to a new folder. `base` is where the base model lies.

    `out` must not exist or be empty. Raises OutputError, RunError, and WeightsError where bytes are not what was
    recorded of them.
    """
    assert source.lora is not None, f"{source.path} holds no adapters"
    with OpenFiles(source.inputs) as files, new_folder(out) as folder:
        tensors = [
            replace(tensor_to_write(tensor, files), name=peft_key(name)) for name, tensor in source.tensors.items()
        ]
        write_safetensors(folder / WEIGHTS_FILE, tensors)
        write_json(folder / CONFIG_FILE, peft_config(source.lora, base))


def peft_key(name: str) -> str:
    """Give PEFT's key of a factor."""
    return f"{_PREFIX}{to_new(name)}"


def peft_config(lora: Lora, base: str | None) -> dict[str, Any]:
    """Give the content of `adapter_config.json`: what every version of PEFT knows."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": "Qwen2_5_VLForConditionalGeneration",
            "parent_library": "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
        },
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": target_expression(lora),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def target_expression(lora: Lora) -> str:
    """Give the expression that matches the names of all adapted modules, whole, and no others."""
    parts = []
    for component in lora.components:
        names = [re.escape(target) for target in TARGETS[component] if target in lora.targets]
        parts.append(f"{_PLACES[component]}({'|'.join(names)})")
    return "|".join(parts)
