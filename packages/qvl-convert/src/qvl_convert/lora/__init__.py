"""Merging LoRA adapters in PEFT's format into a base model, without torch and without peft."""

# Reading an adapter
from qvl_convert.lora.adapter import Adapter, open_adapter

# Whether it fits a model
from qvl_convert.lora.fit import require_fit

# Merging it
from qvl_convert.lora.merge import (
    MergeReport,
    MergeTransform,
    TensorChange,
    merge_report,
    merge_transforms,
)
from qvl_convert.lora.plan import plan_merge

__all__ = [
    "Adapter",
    "MergeReport",
    "MergeTransform",
    "TensorChange",
    "merge_report",
    "merge_transforms",
    "open_adapter",
    "plan_merge",
    "require_fit",
]
