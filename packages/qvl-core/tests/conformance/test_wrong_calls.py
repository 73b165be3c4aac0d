"""Every way of building a call wrongly is seen: a broken rule, or values that are not the definition's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Tensor, mint, ops
from qvl_core.conformance.cases import Case
from qvl_core.conformance.contract_cases import attention_case, contract_cases
from qvl_core.conformance.contracts import check_contract
from qvl_core.kernels import select
from qvl_core.kernels.attention import NO_LIMIT
from qvl_core.kernels.segments import Segments

TABLE = select.ascend_table()
CASES = contract_cases()


# Ways of building a call wrongly, each with the words that its refusal has to say.
def _with(**changes: Any) -> Callable[..., Tensor]:
    def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool, scale: float) -> Tensor:
        ends = segments.fused_batches[0][1]
        arguments: dict[str, Any] = {
            "attn_mask": segments.compressed_causal_mask, "actual_seq_qlen": ends, "actual_seq_kvlen": ends,
            "scalar_value": scale, "next_tokens": 0, "input_layout": "TND", "sparse_mode": 3,
        }  # fmt: skip
        return ops.flash_attention_score(q, k, v, q.shape[1], **(arguments | changes))

    return attention


def _triangle(value: int, diagonal: int) -> Tensor:
    above = np.triu(np.ones((2048, 2048), np.bool_), diagonal)
    return Tensor(above if value else ~above)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actual_seq_qlen": (0, 5, 12)}, "without a leading 0"),
        ({"actual_seq_qlen": (5, 7)}, "the last end is the number of rows"),
        ({"actual_seq_kvlen": (5, 5, 12)}, "no sequence without a key"),
        ({"actual_seq_kvlen": (12,)}, "as many query as key sequences"),
        ({"actual_seq_qlen": Tensor(np.array([5, 12]))}, "a tuple or list of int"),
        ({"attn_mask": _triangle(0, 1)}, "1 (hidden) above the diagonal"),
        ({"attn_mask": _triangle(1, 0)}, "1 (hidden) above the diagonal"),
        ({"attn_mask": Tensor(np.triu(np.ones((12, 12), np.bool_), 1))}, "2048 x 2048"),
        ({"attn_mask": Tensor(np.triu(np.ones((2048, 2048), np.float32), 1))}, "bool or uint8"),
        ({"attn_mask": None}, "sparse_mode 3 without its mask"),
        ({"sparse_mode": 0}, "sparse_mode 2 or 3, not 0"),
        ({"sparse_mode": 4}, "sparse_mode 2 or 3, not 4"),
        ({"next_tokens": NO_LIMIT}, "next_tokens is 0"),
        ({"pre_tokens": 3}, "pre_tokens is not less"),
        ({"input_layout": "BSND"}, "BSND tensors have 4 dims"),
        ({"input_layout": "BNSD"}, "only the TND and BSND layouts"),
        ({"scalar_value": 1}, "scalar_value is a double"),
        ({"keep_prob": 0.9}, "no dropout"),
        ({"scale": 0.25}, "unexpected keyword argument 'scale'"),
    ],
)
def test_a_wrong_argument_breaks_the_contract(changes: dict[str, Any], said: str) -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=True, fused=True, label="wrong")
    check = check_contract(case, replace(TABLE, attention=_with(**changes)))
    assert not check.passed
    assert said in check.message


def test_the_right_arguments_do_not() -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=True, fused=True, label="right")
    assert check_contract(case, replace(TABLE, attention=_with())).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"scalar_value": 1.0},
        {"attn_mask": None, "sparse_mode": 0},
        {"actual_seq_qlen": (12,), "actual_seq_kvlen": (12,)},
    ],
)  # fmt: skip
def test_an_allowed_call_that_means_something_else_has_wrong_values(changes: dict[str, Any]) -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=True, fused=True, label="other")
    check = check_contract(case, replace(TABLE, attention=_with(**changes)))
    assert not check.passed
    assert check.message == ""
    assert check.error > check.tolerance


def test_a_form_that_does_not_call_its_operation_breaks_the_contract() -> None:
    case = next(case for case in CASES if case.kernel == "swiglu")
    check = check_contract(case, select.reference_table())
    assert "ops.swiglu was not called" in check.message


def first_case(kernel: str, words: str) -> Case:
    return next(case for case in CASES if case.kernel == kernel and words in case.label)


# Forms that are wrong in one way each, and what is seen: a broken rule, or values that are not the definition's ("").
WRONG_FORMS: list[tuple[str, str, Callable[..., Any], str]] = [
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w, epsilon=2.0)[0], "epsilon is a float in (0, 1]"),
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w, epsilon=0.5)[0], ""),
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w.astype(ms.float32), epsilon=eps)[0], "one dtype"),
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w[:8], epsilon=eps)[0], "the last dims of x"),
    ("swiglu", "odd", lambda gate, up: ops.swiglu(ops.cat((up, gate), -1), -1), ""),
    ("swiglu", "3-D", lambda gate, up: ops.swiglu(ops.cat((gate, up), -1), 0), ""),
    ("swiglu", "odd", lambda gate, up: ops.swiglu(gate, -1), "an even number of entries"),
    ("rope", "smallest", lambda x, c, s: ops.rotary_position_embedding(x, c, s, 0), "one dtype"),
    (
        "rope",
        "7B",
        lambda x, c, s: rotated(x, c.expand_dims(0).expand_dims(0), s.expand_dims(0).expand_dims(0)),
        "BSND",
    ),
    ("rope", "7B", lambda x, c, s: rotated(x, laid(c), laid(s), mode=1), "mode 0 is rotate-half"),
    ("rope", "7B", lambda x, c, s: rotated(x, laid(s), laid(c)), ""),
    ("rope", "7B", lambda x, c, s: rotated(x, laid(c) * 2.0, laid(s)), "cos and sin in [-1, 1]"),
    ("cross_entropy", "whole", lambda x, t: mint.nn.functional.cross_entropy(x, t), "one loss a token"),
    ("cross_entropy", "whole", lambda x, t: entropy(x, t.astype(ms.float32)), "int32 or int64"),
    ("cross_entropy", "whole", lambda x, t: entropy(x, t - 101), "labels in [0, C)"),
    ("cross_entropy", "whole", lambda x, t: entropy(x, t, label_smoothing=0.1), "no smoothing"),
    ("cross_entropy", "two", lambda x, t: mint.nn.functional.cross_entropy(x, t, reduction="none"), "gives float16"),
    ("cross_entropy", "some", lambda x, t: entropy(x, ops.maximum(t, 0)), ""),
    ("rms_norm", "near the", lambda x, w, eps: ops.rms_norm(x, gamma=w, epsilon=1e-5)[0], ""),
    ("patch_embed", "true", lambda x, w: mint.nn.functional.linear(x, w.swapaxes(0, 1)), "weight (out, in)"),
    ("patch_embed", "true", lambda x, w: mint.nn.functional.linear(x, w, w[:, 0]), ""),
]


def laid(angles: Tensor) -> Tensor:
    return angles.expand_dims(0).expand_dims(2)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
    return ops.rotary_position_embedding(x.astype(ms.float32).expand_dims(0), cos, sin, mode).squeeze(0).astype(x.dtype)


def entropy(logits: Tensor, labels: Tensor, **more: Any) -> Tensor:
    return mint.nn.functional.cross_entropy(logits.astype(ms.float32), labels, reduction="none", **more)


@pytest.mark.parametrize(("kernel", "words", "form", "said"), WRONG_FORMS)
def test_a_wrong_form_breaks_the_contract(kernel: str, words: str, form: Callable[..., Any], said: str) -> None:
    check = check_contract(first_case(kernel, words), replace(TABLE, **{kernel: form}))
    assert not check.passed
    assert said in check.message
    assert bool(check.message) == bool(said)


def test_an_optimizer_step_with_its_eps_in_another_place_has_wrong_values() -> None:
    def form(p: Any, m: Any, v: Any, gradient: Tensor, *, step: int, eps: float, **rest: float) -> None:
        # The operation's own epsilon stands beside a root that is smaller by this factor.
        TABLE.adamw_update(p, m, v, gradient, step=step, eps=eps / (1.0 - rest["beta2"] ** step) ** 0.5, **rest)

    check = check_contract(first_case("adamw_update", "epsilon"), replace(TABLE, adamw_update=form))
    assert not check.passed
    assert check.message == ""
