"""Joining, dealing out, and the norm: its accuracy against fp64, what it says of numbers that are none, its reads."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Parameter, Tensor, ops
from qvl_core import kernels
from qvl_core.kernels import select

ASCEND = select.ascend_table()
# Relative to the exact sum. fp32 runs of 1024 squares have an error of at most 1e-6 if all roundings go one way.
ACCURACY = 1e-6


def _exact(*arrays: np.ndarray) -> float:
    return math.fsum(float((array.astype(np.float64) ** 2).sum()) for array in arrays)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 5000, 1 << 20, 3_000_001])
@pytest.mark.parametrize("kind", ["normal", "equal", "wide", "tiny"])
def test_sum_of_squares_is_exact_to_a_millionth(size: int, kind: str) -> None:
    random = np.random.default_rng(size)
    array = {
        "normal": lambda: random.standard_normal(size),
        "equal": lambda: np.full(size, 0.1),
        "wide": lambda: random.standard_normal(size) * 10.0 ** random.integers(-8, 8, size),
        "tiny": lambda: random.standard_normal(size) * 1e-15,
    }[kind]().astype(np.float32)
    assert kernels.sum_of_squares([Tensor(array)]) == pytest.approx(_exact(array), rel=ACCURACY)


def test_many_tensors_are_one_sum_and_none_is_zero() -> None:
    random = np.random.default_rng(1)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (1,), (40, 50), ())]
    found = kernels.sum_of_squares([Tensor(array) for array in arrays])
    assert found == pytest.approx(_exact(*arrays), rel=ACCURACY)
    assert kernels.sum_of_squares([]) == ASCEND.sum_of_squares([]) == 0.0


def test_views_are_read_as_what_they_show() -> None:
    whole = np.random.default_rng(2).standard_normal((40, 60)).astype(np.float32)
    for view in (Tensor(whole)[3:30], Tensor(whole)[:, 7], Tensor(whole).swapaxes(0, 1)):
        assert kernels.sum_of_squares([view]) == pytest.approx(_exact(view.asnumpy()), rel=ACCURACY)
        assert (kernels.join([view]).asnumpy() == view.asnumpy().reshape(-1)).all()


@pytest.mark.parametrize("place", [0, 1500, 2047, 2050])
@pytest.mark.parametrize(("value", "says"), [(np.nan, math.isnan), (np.inf, math.isinf), (3e38, math.isinf)])
@pytest.mark.filterwarnings("error")
def test_one_number_that_is_none_shows_wherever_it_stands(place: int, value: float, says: Any) -> None:
    array = np.ones(2100, np.float32)
    array[place] = value
    tensors = [Tensor(np.ones(5, np.float32)), Tensor(array)]
    assert says(kernels.sum_of_squares(tensors))
    assert says(ASCEND.sum_of_squares(tensors))


def test_the_same_elements_give_the_same_bits() -> None:
    array = np.random.default_rng(3).standard_normal(100_003).astype(np.float32)
    assert len({kernels.sum_of_squares([Tensor(array.copy())]).hex() for _ in range(20)}) == 1


def test_the_device_form_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on CPU too, where its sums in fp32 are right to 1e-5."""
    reads, read = [], Tensor.asnumpy
    monkeypatch.setattr(Tensor, "asnumpy", lambda self: reads.append(self.shape) or read(self))
    arrays = [np.random.default_rng(i).standard_normal((i + 1, 50)).astype(np.float32) for i in range(30)]
    tensors = [Tensor(array) for array in arrays]
    reads.clear()
    found = ASCEND.sum_of_squares(tensors)
    assert reads == [(30,)]
    assert found == pytest.approx(_exact(*arrays), rel=1e-5)
    joined = ASCEND.join(tensors)
    parameters = [Parameter(ops.zeros_like(tensor)) for tensor in tensors]
    ASCEND.deal(joined, parameters)
    assert reads == [(30,)]
    assert all((parameter.asnumpy() == array).all() for parameter, array in zip(parameters, arrays, strict=True))


@pytest.mark.parametrize("table", [select.reference_table(), ASCEND], ids=["reference", "ascend"])
def test_dealing_out_rounds_to_the_parameters_dtypes_in_place(table: select.KernelTable) -> None:
    values = np.random.default_rng(4).standard_normal(20).astype(np.float32)
    # The device form assigns, for which CPU has no bfloat16.
    dtypes = (ms.float32, ms.float16, ms.float16 if table is ASCEND else ms.bfloat16)
    parameters = [Parameter(Tensor(np.zeros((2, 3), np.float32)).astype(dtype)) for dtype in dtypes]
    # Two elements more than the parameters take: the filling of a flat tensor.
    table.deal(Tensor(values), parameters)
    for i, (parameter, dtype) in enumerate(zip(parameters, dtypes, strict=True)):
        expected = Tensor(values[6 * i : 6 * i + 6].reshape(2, 3)).astype(dtype)
        assert parameter.dtype == dtype
        assert (parameter.astype(ms.float32).asnumpy() == expected.astype(ms.float32).asnumpy()).all()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_dealing_out_and_joining_do_not_grow_the_process() -> None:
    """MindSpore 2.10 keeps 670 bytes of every `copy_`: 5 MiB here."""
    parameters = [Parameter(Tensor(np.zeros((4, 4), np.float32))) for _ in range(8)]
    flat = Tensor(np.ones(128, np.float32))

    def resident_mib(calls: int) -> float:
        for _ in range(calls):
            kernels.deal(kernels.join([flat]), parameters)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident_mib(1000)
    assert resident_mib(1000) - before < 2.0
