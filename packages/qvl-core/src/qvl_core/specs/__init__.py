"""Model specs: the shape of each Qwen2.5-VL size, and specs read from an HF `config.json`.

model_spec  the dataclasses · load  by shipped name or from a config · hf_config  the spellings of `config.json`
"""

from qvl_core.specs.hf_config import spec_from_hf_config, to_hf_config
from qvl_core.specs.load import load_spec, model_differences, shipped_config_path, shipped_names, spec_differences
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

__all__ = [
    "ModelSpec",
    "TextSpec",
    "TokenIds",
    "VisionSpec",
    "load_spec",
    "model_differences",
    "shipped_config_path",
    "shipped_names",
    "spec_differences",
    "spec_from_hf_config",
    "to_hf_config",
]
