"""LoRA adapters and what they make of a base model, without torch and without peft.

Reading    adapter (Adapter, open_adapter), adapter_config: PEFT's format
Fitting    fit (require_fit), targets, patterns: which tensors of a model an adapter changes
Merging    merge (MergeTransform), product: the arithmetic, the same to the bit wherever it is done
Loading    any_adapter (AnyAdapter, open_any_adapter): adapters of any format, merged into a rank's part of a model
"""

from qvl_core.weights.lora.adapter import Adapter, open_adapter
from qvl_core.weights.lora.any_adapter import AnyAdapter, merged_values, open_any_adapter
from qvl_core.weights.lora.fit import require_fit
from qvl_core.weights.lora.merge import MergeReport, MergeTransform, TensorChange, merge_report, merge_transforms

__all__ = [
    "Adapter",
    "AnyAdapter",
    "MergeReport",
    "MergeTransform",
    "TensorChange",
    "merge_report",
    "merge_transforms",
    "merged_values",
    "open_adapter",
    "open_any_adapter",
    "require_fit",
]
