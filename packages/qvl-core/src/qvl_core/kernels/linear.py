"""Linear map y = x W^T + b, and what is built on it: embedding lookup and patch embedding.

Shapes: T tokens, P patches, D model, I inputs, O outputs, V vocabulary, C numbers in one patch.
"""

from __future__ import annotations

from mindspore import Tensor, mint, ops

from qvl_core.kernels.domain import is_outside

# ops.MatMul(transpose_b=True) reads the weight as it lies. mint.nn.functional.linear copies the transposed weight on
# CPU first: 0.62 s instead of 0.03 s for one row times a 151936 x 384 weight.
_MATMUL_TRANSPOSED = ops.MatMul(transpose_b=True)
# A plain + broadcasts, which takes as long as the product itself at a width of some hundreds.
_ADD_BIAS = ops.BiasAdd()


def linear_reference(x: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b over the last dim of x; any leading dims, shape [..., O]."""
    leading = x.shape[:-1]
    rows = x if len(leading) == 1 else x.reshape(-1, x.shape[-1])
    y = _MATMUL_TRANSPOSED(rows, weight_OI)
    if bias is not None:
        y = _ADD_BIAS(y, bias)
    return y if len(leading) == 1 else y.reshape(*leading, weight_OI.shape[0])


def linear_ascend(x: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b with mint's linear, which the device runs as one operation. Not verified on a device."""
    return mint.nn.functional.linear(x, weight_OI, bias)


def embedding_reference(weight_VD: Tensor, ids_T: Tensor) -> Tensor:
    """Return the rows of the table at the ids, shape ids.shape + [D]."""
    return ops.gather(weight_VD, ids_T, 0)


def embedding_ascend(weight_VD: Tensor, ids_T: Tensor) -> Tensor:
    """Return the rows of the table at the ids with mint's embedding. Not verified on a device."""
    return mint.nn.functional.embedding(ids_T, weight_VD)


def patch_embed_reference(patches_PC: Tensor, weight_DC: Tensor) -> Tensor:
    """Return the embedded patches [P, D].

    The model's 3-D convolution has kernel equal to stride, so on patches that are cut out already it is a matrix
    product with the flattened kernel (channel, time, height, width). Qwen2.5-VL (arXiv 2502.13923), section 2.1.1.
    """
    return _MATMUL_TRANSPOSED(patches_PC, weight_DC)


def patch_embed_ascend(patches_PC: Tensor, weight_DC: Tensor) -> Tensor:
    """Return the embedded patches [P, D] with mint's linear. Not verified on a device."""
    if is_outside("patch_embed", (patches_PC.dtype, weight_DC.dtype), patches_PC.shape):
        return patch_embed_reference(patches_PC, weight_DC)
    return mint.nn.functional.linear(patches_PC, weight_DC)
