"""Softmax over the last dim, with a gradient in few passes."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from qvl_core.kernels.compiled import is_compiled

_MATMUL = ops.MatMul()


class _Softmax(nn.Cell):
    """Softmax with the gradient y * (dy - sum(y * dy)) written out.

    MindSpore's own takes two to three times as long on CPU, where it broadcasts the sum; and one of its backward passes
    over a dim of size 1 spoils all later ones.
    """

    def construct(self, x: Tensor) -> Tensor:
        return ops.softmax(x, -1)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Give the gradient; sums over a row, and their spreading over it, are products with a column of ones."""
        width = x.shape[-1]
        y, dy = out.reshape(-1, width), dout.reshape(-1, width)
        ones = ops.ones((width, 1), y.dtype)
        sums = _MATMUL(_MATMUL(y * dy, ones), ones.reshape(1, -1))
        return ((y * (dy - sums)).reshape(x.shape),)


_SOFTMAX = _Softmax()


def softmax(x: Tensor) -> Tensor:
    """Return softmax(x) over the last dim, fp32 [..., V], V at least 2."""
    # The gradient of a cell with a bprop of its own is silently wrong under jit where one graph uses the cell twice
    # (MindSpore 2.10).
    return ops.softmax(x, -1) if is_compiled() else _SOFTMAX(x)
