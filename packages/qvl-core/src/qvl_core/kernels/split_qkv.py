"""Cutting a fused q, k, v projection apart. Shapes: P patches, N heads, H head size."""

from __future__ import annotations

from mindspore import Tensor, ops


def split_qkv_reference(qkv_P3D: Tensor, head_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, each [P, N, H], of rows that hold all q heads, then all k heads, then all v heads.

    By one gather along the first dim: cutting them out of rows where they stand side by side copies strided views,
    forward and backward, which is slow on CPU. Not for compiled code, where its gradient is lost.
    """
    rows = qkv_P3D.shape[0]
    order = ops.arange(3 * rows).reshape(rows, 3).swapaxes(0, 1).reshape(-1)
    turned = ops.gather(qkv_P3D.reshape(3 * rows, -1), order, 0).reshape(3 * rows, -1, head_size)
    q, k, v = ops.split(turned, rows, 0)
    return q, k, v


def split_qkv_ascend(qkv_P3D: Tensor, head_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by slices, which the device takes as views. Not verified on a device."""
    heads = qkv_P3D.reshape(qkv_P3D.shape[0], 3, -1, head_size)
    return heads[:, 0], heads[:, 1], heads[:, 2]
