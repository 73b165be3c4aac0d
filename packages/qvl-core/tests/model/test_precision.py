"""What runs in which number format, forward and backward: half precision between the fp32 islands that are listed here.

float16 stands in for bfloat16, which CPU cannot multiply. The Ascend forms run with stand-ins for the fused
operations, so this proves what they are given, and nothing of what a device does inside: not verified on one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

import mindspore as ms
from mindspore import Tensor, mint, ops
from qvl_core import kernels
from qvl_core.kernels import select
from qvl_core.kernels.rms_norm import rms_norm_reference
from qvl_core.layout import Layout
from qvl_core.model import Qwen25VL
from qvl_core.model.inputs import flatten_prompt
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from small_models import UNTIED, image_prompt, lively_weights

# Heads of 16, which the fused attention takes.
SPEC = replace(
    UNTIED,
    vision=replace(UNTIED.vision, hidden_size=64, out_hidden_size=64),
    text=replace(UNTIED.text, hidden_size=64, head_dim=16, mrope_section=(4, 2, 2)),
)
HALF, SINGLE = "float16", "float32"
# Of each kernel: the formats of its float tensors, and of its result. Everything the model computes is one of these,
# a sum of two results, or a rearrangement.
KERNELS = {
    "embedding": ({HALF}, HALF),
    "patch_embed": ({HALF}, HALF),
    "linear": ({HALF}, HALF),
    # The weight and the rows are half; the mean of squares is fp32 inside.
    "rms_norm": ({HALF}, HALF),
    "swiglu": ({HALF}, HALF),
    "gelu": ({HALF}, HALF),
    "split_qkv": ({HALF}, HALF),
    # The angles are fp32, and so is the rotation.
    "rope": ({HALF, SINGLE}, HALF),
    # The scores' softmax is fp32 inside.
    "attention": ({HALF}, HALF),
    "merge_tokens": ({HALF}, HALF),
    # Logits arrive as the matmul gave them; log-softmax, loss and sum are fp32.
    "cross_entropy": ({HALF}, SINGLE),
}
# What the fused operations are given, under the names that the documentation has for them.
OPERATIONS = {
    "rms_norm": {HALF},
    "swiglu": {HALF},
    "gelu": {HALF},
    "rotary_position_embedding": {SINGLE},
    "flash_attention_score": {HALF},
    "cross_entropy": {SINGLE},
}


class Formats:
    """The formats of every call, by name."""

    def __init__(self) -> None:
        self.given: dict[str, set[str]] = defaultdict(set)
        self.got: dict[str, set[str]] = defaultdict(set)

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function, recorded."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.given[name] |= _formats([*arguments, *options.values()])
            result = function(*arguments, **options)
            self.got[name] |= _formats(result if isinstance(result, tuple) else [result])
            return result

        return call


def _formats(values: Any) -> set[str]:
    floats = (ms.float16, ms.bfloat16, ms.float32, ms.float64)
    return {str(value.dtype).lower() for value in values if isinstance(value, Tensor) and value.dtype in floats}


@contextmanager
def watched(table: select.KernelTable) -> Iterator[Formats]:
    """Put a table's kernels in place, recorded."""
    formats = Formats()
    with pytest.MonkeyPatch.context() as patch:
        for name in KERNELS:
            patch.setattr(kernels, name, formats.watch(name, getattr(table, name)))
        yield formats


def run(dtype: str) -> tuple[float, list[Tensor], Qwen25VL]:
    """Run a micro batch with an image forward and backward; give loss, summed gradients and the model."""
    model = Qwen25VL.from_spec(SPEC, lively_weights(SPEC), dtype)
    batch = flatten_prompt(SPEC, **image_prompt(SPEC)).batch
    batch = replace(batch, labels=np.roll(batch.input_ids, -1).astype(np.int32))
    pipeline = Pipeline(model, SingleWorld(Layout.single(SPEC)))
    weights = np.full(len(batch.loss_rows), 1 / len(batch.loss_rows), np.float32)
    loss, gradients = pipeline.gradients([batch], [weights])
    return loss, gradients, model


def test_the_reference_computes_in_half_precision_but_for_what_is_listed() -> None:
    with watched(select.reference_table()) as formats:
        loss, gradients, model = run(HALF)
    assert {name: (formats.given[name], *formats.got[name]) for name in KERNELS} == KERNELS
    assert all(parameter.dtype == ms.float16 for parameter in model.named_parameters().values())
    assert all(gradient.dtype == ms.float32 for gradient in gradients)
    exact, expected, _ = run(SINGLE)
    # float16 keeps eleven bits; the deepest gradients go through some twenty roundings.
    assert loss == pytest.approx(exact, rel=2e-3)
    for found, wanted, name in zip(gradients, expected, model.named_parameters(), strict=True):
        difference = float(np.linalg.norm(found.asnumpy() - wanted.asnumpy()))
        assert difference <= 2e-2 * float(np.linalg.norm(wanted.asnumpy())) + 1e-6, name


def test_gradients_have_the_format_of_their_parameters_until_they_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    from qvl_core.parallel import pipeline

    seen, add = set(), pipeline.accumulate
    monkeypatch.setattr(pipeline, "accumulate", lambda total, new: (seen.update(_formats(new)), add(total, new)))
    _, gradients, _ = run(HALF)
    assert seen == {HALF}
    assert _formats(gradients) == {SINGLE}


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Formats:
    """Stand in for the fused operations with the plain forms; give what they were given."""
    formats = Formats()
    reference = select.reference_table()

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
        segments = kernels.build_segments(tuple(np.diff((0, *options["actual_seq_qlen"])).tolist()))
        causal, scale = options["sparse_mode"] == 3, options["scalar_value"]
        return reference.attention(q, k, v, segments, causal=causal, scale=scale)

    def rotary(x: Tensor, cos: Tensor, sin: Tensor, mode: int) -> Tensor:
        return reference.rope(x.squeeze(0), cos.squeeze(2).squeeze(0), sin.squeeze(2).squeeze(0)).expand_dims(0)

    def swiglu(x: Tensor, dim: int) -> Tensor:
        half = x.shape[-1] // 2
        return reference.swiglu(x[..., :half], x[..., half:])

    def watch(module: Any, name: str, function: Callable[..., Any]) -> None:
        monkeypatch.setattr(module, name, formats.watch(name, function))

    watch(ops, "rms_norm", lambda x, gamma, epsilon: (rms_norm_reference(x, gamma, epsilon), None))
    watch(ops, "swiglu", swiglu)
    watch(ops, "rotary_position_embedding", rotary)
    watch(ops, "flash_attention_score", attention)
    watch(mint.nn.functional, "gelu", ops.gelu)
    watch(mint.nn.functional, "cross_entropy", lambda x, labels, **_: reference.cross_entropy(x, labels))
    monkeypatch.setattr(mint.nn.functional, "embedding", lambda ids, weight: reference.embedding(weight, ids))
    return formats


def test_the_ascend_forms_give_the_fused_operations_the_formats_they_are_documented_for(operations: Formats) -> None:
    with watched(select.ascend_table()) as formats:
        loss, gradients, _ = run(HALF)
    assert {name: (formats.given[name], *formats.got[name]) for name in KERNELS} == KERNELS
    assert dict(operations.given) == OPERATIONS
    assert all(gradient.dtype == ms.float32 for gradient in gradients)
    assert loss == pytest.approx(run(HALF)[0], rel=2e-3)
