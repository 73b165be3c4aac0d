"""Activations of the feed-forward blocks. Shapes: F ffn."""

from __future__ import annotations

from mindspore import Tensor, mint, ops

from qvl_core.kernels.announce import warn_once
from qvl_core.kernels.domain import is_outside

_SHAPES = "swiglu: the fused form (ops.swiglu) wants halves of one shape; running the slower reference"


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up; both [..., F]."""
    return ops.silu(gate) * up


def swiglu_ascend(gate: Tensor, up: Tensor) -> Tensor:
    """Return the same with the fused operation, which wants both halves side by side. Not verified on a device."""
    # Halves of two widths would be cut in the middle, without a word.
    sizes = (gate.size // gate.shape[-1] if gate.shape[-1] else 0, gate.shape[-1])
    if gate.shape != up.shape:
        warn_once(_SHAPES)
        return swiglu_reference(gate, up)
    if is_outside("swiglu", (gate.dtype, up.dtype), sizes):
        return swiglu_reference(gate, up)
    return ops.swiglu(mint.cat((gate, up), -1), -1)


def gelu_reference(x: Tensor) -> Tensor:
    """Return the exact (erf) GELU, as the vision merger uses it; not the tanh approximation."""
    return ops.gelu(x)


def gelu_ascend(x: Tensor) -> Tensor:
    """Return the exact GELU with mint's operation. Not verified on a device."""
    return mint.nn.functional.gelu(x)
