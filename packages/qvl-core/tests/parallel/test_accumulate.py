"""Sums of micro batches' gradients: fp32 whatever the gradients are, and nothing copied where nothing is added."""

from __future__ import annotations

import numpy as np
import pytest

ms = pytest.importorskip("mindspore", reason="gradients need MindSpore")

from qvl_core.parallel.pipeline import accumulate  # noqa: E402


def test_bfloat16_gradients_are_added_in_fp32() -> None:
    """In bfloat16 a sum of ones stops at 256: 257 is not a bfloat16."""
    one = ms.Tensor(np.ones(4, np.float32)).astype(ms.bfloat16)
    total: list[ms.Tensor] = []
    for _ in range(300):
        accumulate(total, [one])
    assert total[0].dtype == ms.float32
    assert total[0].asnumpy().tolist() == [300.0] * 4


def test_the_sum_is_that_of_fp32_in_the_order_of_the_micro_batches() -> None:
    random = np.random.default_rng(1)
    parts = [random.standard_normal((3, 5)).astype(np.float32) for _ in range(7)]
    total: list[ms.Tensor] = []
    for part in parts:
        accumulate(total, [ms.Tensor(part), ms.Tensor(2 * part)])
    expected = parts[0]
    for part in parts[1:]:
        expected = expected + part
    assert total[0].asnumpy().tobytes() == expected.tobytes()
    assert total[1].asnumpy().tobytes() == (2 * expected).tobytes()


def test_one_micro_batch_is_taken_as_it_is_and_no_tensor_is_changed() -> None:
    first, second = ms.Tensor(np.ones(4, np.float32)), ms.Tensor(np.ones(4, np.float32))
    total: list[ms.Tensor] = []
    accumulate(total, [first])
    assert total[0] is first
    accumulate(total, [second])
    assert first.asnumpy().tolist() == second.asnumpy().tolist() == [1.0] * 4
    assert total[0].asnumpy().tolist() == [2.0] * 4
