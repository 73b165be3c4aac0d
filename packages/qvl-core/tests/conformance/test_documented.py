"""The numpy models of the fused operations, where something can be held against them without a device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Tensor, ops
from qvl_core.conformance import documented
from qvl_core.kernels.attention import NO_LIMIT
from qvl_core.kernels.segments import build_segments


@pytest.mark.parametrize("mode", [2, 3])
@settings(max_examples=30, deadline=None)
@given(queries=st.integers(1, 12), more=st.integers(0, 5))
def test_masks_of_the_modes(mode: int, queries: int, more: int) -> None:
    arguments = {
        "sparse_mode": mode, "attn_mask": build_segments([1]).compressed_causal_mask, "next_tokens": 0,
        "pre_tokens": NO_LIMIT,
    }  # fmt: skip
    hidden = documented.hidden_by(arguments, queries, queries + more)
    for i in range(queries):
        # Mode 2 lets query i see keys 0 to i; mode 3 as many keys more as there are more keys than queries.
        seen = i + 1 if mode == 2 else i + 1 + more
        assert (~hidden[i]).sum() == seen
        assert not hidden[i, :seen].any()


def test_the_model_of_adam_is_the_operation() -> None:
    # The only fused operation that runs on CPU, so here the model is held against the real thing.
    random = np.random.default_rng(3)
    values = [random.standard_normal((5, 3)).astype(np.float32) for _ in range(4)]
    values[2] = np.abs(values[2])
    numbers = (0.81, 0.98, 1e-2, 0.9, 0.99, 1e-6)
    names = ("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon")
    given_ = dict(zip(("var", "m", "v", "gradient"), map(Tensor, values), strict=True)) | dict(
        zip(names, numbers, strict=True)
    )
    expected = documented.adam(given_)
    parameters = [ms.Parameter(Tensor(x.copy())) for x in values[:3]]
    ops.Adam()(*parameters, *(Tensor(x, ms.float32) for x in numbers), Tensor(values[3]))
    for parameter, value in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.asnumpy(), value, rtol=2e-5, atol=1e-6)
