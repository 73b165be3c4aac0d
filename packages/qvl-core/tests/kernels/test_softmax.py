"""Softmax: its own gradient is the gradient, run or compiled, also where it is used twice."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="kernels run on mindspore")

import mindspore as ms
from mindspore import Tensor
from numpy.typing import NDArray
from qvl_core.kernels.compiled import is_compiled
from qvl_core.kernels.softmax import softmax

# fp32 sums of some ten terms.
TOLERANCE = 1e-6


def _expected(x: NDArray[np.float64], dy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give softmax(x) and the gradient of x, in fp64."""
    y = np.exp(x - x.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    return y, y * (dy - (y * dy).sum(-1, keepdims=True))


@ms.jit
def _twice_compiled(x: Tensor) -> Tensor:
    return softmax(3 * softmax(x))


def _twice(x: Tensor) -> Tensor:
    return softmax(3 * softmax(x))


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 9), (1, 2)])
def test_gradient_equals_fp64(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    y, dx = _expected(x.astype(np.float64), dy.astype(np.float64))
    found = ms.grad(lambda x: (softmax(x) * Tensor(dy)).sum())(Tensor(x))
    assert np.abs(softmax(Tensor(x)).asnumpy() - y).max() <= TOLERANCE
    assert np.abs(found.asnumpy() - dx).max() <= TOLERANCE


def test_hidden_entries_have_no_weight_and_no_gradient() -> None:
    x = np.array([[0.5, -1e30, 1.0]], np.float32)
    assert softmax(Tensor(x)).asnumpy()[0, 1] == 0
    found = ms.grad(lambda x: (softmax(x) * Tensor(np.array([[1.0, 5.0, 2.0]], np.float32))).sum())(Tensor(x))
    assert found.asnumpy()[0, 1] == 0
    assert np.isfinite(found.asnumpy()).all()


@pytest.mark.parametrize("function", [_twice, _twice_compiled], ids=["run", "compiled"])
def test_gradient_is_right_where_it_is_used_twice(function: object) -> None:
    rng = np.random.default_rng(4)
    x, dy = (rng.standard_normal((4, 6)).astype(np.float32) for _ in range(2))
    y, _ = _expected(x.astype(np.float64), dy)
    _, inner = _expected(3 * y, dy)
    _, dx = _expected(x.astype(np.float64), 3 * inner)
    found = ms.grad(lambda x: (function(x) * Tensor(dy)).sum())(Tensor(x))  # type: ignore[operator]
    assert np.abs(found.asnumpy() - dx).max() <= TOLERANCE


@ms.jit
def _one_if_compiled(x: Tensor) -> Tensor:
    return x * 0 + 1 if is_compiled() else x * 0


def test_knows_whether_it_is_compiled() -> None:
    assert is_compiled() is False
    assert _one_if_compiled(Tensor(np.zeros(2, np.float32))).asnumpy().tolist() == [1, 1]
