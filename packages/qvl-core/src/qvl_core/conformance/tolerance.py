"""How much a measured kernel may differ from its definition.

No framework is imported here: `qvl recipes` reads it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Precision = Literal["float32", "float16", "bfloat16"]

# Largest difference over the largest entry. fp32: some hundred roundings of 6e-8 each. Half precision: one rounding is
# 5e-4 (fp16) or 4e-3 (bf16), and gradients pass through several half-precision intermediates.
VALUE_TOLERANCE: Mapping[str, float] = MappingProxyType({"float32": 5e-6, "float16": 5e-3, "bfloat16": 4e-2})
GRADIENT_TOLERANCE: Mapping[str, float] = MappingProxyType({"float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2})
# Compiled and plain execution may fuse and so round differently, no more.
COMPILED_TOLERANCE: Mapping[str, float] = MappingProxyType({"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2})


def tolerance_of(check: str, precision: str) -> float:
    """Return the tolerance of a check by its name ("jit values"). Raises KeyError for an unknown precision."""
    if check == "inputs unchanged":
        return 0.0
    if check.startswith("contract"):
        return VALUE_TOLERANCE["float16"]
    if "gradient" in check:
        return GRADIENT_TOLERANCE[precision]
    return COMPILED_TOLERANCE[precision] if check.startswith("jit") else VALUE_TOLERANCE[precision]
