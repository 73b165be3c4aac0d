"""Cases for the contracts: shapes of the published models, and both sides of every border of a domain.

The contract tests run them through stand-ins on any machine, the suite of `nox -s npu` on the device. Small in tokens,
true in head sizes and heads, so that a machine without a device takes seconds for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.conformance import cases, truth
from qvl_core.conformance.cases import Case
from qvl_core.kernels.segments import build_segments
from qvl_core.kernels.select import KernelTable

# Lengths, query heads, key heads, head size, causal, inside of the domain.
_ATTENTION: tuple[tuple[str, tuple[int, ...], int, int, int, bool, bool], ...] = (
    ("windows of an image, head size 80", (64, 64, 32, 64, 64, 32, 32, 16), 16, 16, 80, False, True),
    ("whole frames, head size 80", (96, 40), 16, 16, 80, False, True),
    ("one window, head size 80", (64,), 2, 2, 80, False, True),
    ("packed, 7B: 28 and 4 heads", (33, 1, 17, 60), 28, 4, 128, True, True),
    ("packed, 3B: 16 and 2 heads", (5, 80, 2), 16, 2, 128, True, True),
    ("packed, 72B by 8 ranks: 8 and 1 heads", (70, 31), 8, 1, 128, True, True),
    ("packed, one key head each", (8, 8, 9), 4, 4, 128, True, True),
    ("one token", (1,), 4, 2, 128, True, True),
    ("1024 windows", (2,) * 1024, 1, 1, 80, False, True),
    ("1025 windows", (2,) * 1025, 1, 1, 80, False, True),
    ("1030 packed samples", (1, 3) * 515, 2, 1, 16, True, True),
    ("smallest head size", (7, 5), 2, 1, 16, True, True),
    ("largest head size", (7, 5), 2, 1, 512, True, True),
    ("above the largest head size", (7, 5), 2, 1, 528, True, False),
    ("head size 72: not a multiple of 16", (7, 5), 2, 2, 72, False, False),
    ("head size 8", (7, 5), 2, 1, 8, True, False),
    ("256 heads", (3, 2), 256, 2, 16, True, True),
    ("257 heads", (3, 2), 257, 1, 16, True, False),
)  # fmt: skip


def contract_cases(seed: int = 2026) -> tuple[Case, ...]:
    """Return every contract case, the same ones for the same seed."""
    random = np.random.default_rng(seed)
    makers = (_attention, _rms_norm, _rope, _swiglu, _cross_entropy, _patch_embed, _adamw)
    return tuple(case for maker in makers for case in maker(random))


def attention_case(
    random: np.random.Generator, lengths: tuple[int, ...], heads: int, kv_heads: int, size: int,
    *, causal: bool, fused: bool, label: str,
) -> Case:  # fmt: skip
    """Return one case of attention with the scale of its head size."""
    tokens, segments, scale = sum(lengths), build_segments(lengths), size**-0.5

    # A closure, not a partial: see cases._attention_call.
    def call(table: KernelTable, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return table.attention(q, k, v, segments, causal=causal, scale=scale)

    definition = partial(truth.attention, lengths=lengths, causal=causal, scale=scale)
    inputs = tuple(_normal(random, tokens, n, size) for n in (heads, kv_heads, kv_heads))
    return _case("attention", label, inputs, call, definition, fused=fused)


def _attention(random: np.random.Generator) -> Iterator[Case]:
    for label, lengths, heads, kv_heads, size, causal, fused in _ATTENTION:
        yield attention_case(random, lengths, heads, kv_heads, size, causal=causal, fused=fused, label=label)
    wide = attention_case(random, (7, 5), 2, 1, 16, causal=True, fused=False, label="float32")
    yield replace(wide, single=(0, 1, 2), gradients=False)


def _rms_norm(random: np.random.Generator) -> Iterator[Case]:
    for label, shape, fused in (
        ("width of 7B", (5, 3584), True), ("width of the vision tower", (9, 1280), True), ("width 2", (4, 2), True),
        ("eight dims", (1, 2, 1, 2, 1, 1, 2, 8), True), ("nine dims", (1, 1, 2, 1, 2, 1, 1, 2, 8), False),
    ):  # fmt: skip
        inputs = (_normal(random, *shape), _normal(random, shape[-1]))
        definition = partial(truth.rms_norm, eps=1e-6)
        # MindSpore's gradients stop at eight dims too.
        yield _case("rms_norm", label, inputs, cases.call_rms_norm, definition, fused=fused, gradients=fused)
    # Mean squares near the epsilon, which decides nothing in the cases above. Values alone: the steps of the
    # differences that gradients are held against are too long for such small numbers.
    inputs = (_normal(random, 6, 64) * np.float32(1e-3), _normal(random, 64))
    definition = partial(truth.rms_norm, eps=1e-6)
    yield _case("rms_norm", "rows near the epsilon", inputs, cases.call_rms_norm, definition, gradients=False)


def _rope(random: np.random.Generator) -> Iterator[Case]:
    for label, tokens, heads, size, fused in (
        ("text of 7B", 6, 28, 128, True), ("vision, head size 80", 8, 16, 80, True), ("smallest", 3, 1, 2, True),
        ("head size 894", 2, 1, 894, True), ("head size 896", 2, 1, 896, False), ("999 heads", 2, 999, 8, True),
        ("1000 heads", 2, 1000, 8, False),
    ):  # fmt: skip
        angles = np.tile(random.uniform(0.0, 30_000.0, (tokens, size // 2)), 2)
        inputs = (
            _normal(random, tokens, heads, size),
            np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32),
        )  # fmt: skip
        yield _case("rope", label, inputs, cases.call_rope, truth.rope, fused=fused, single=(1, 2))


def _swiglu(random: np.random.Generator) -> Iterator[Case]:
    for label, shape in (("odd width", (4, 3)), ("width of a 7B rank", (3, 4736)), ("3-D", (2, 3, 8))):
        inputs = (_normal(random, *shape), _normal(random, *shape))
        yield _case("swiglu", label, inputs, cases.call_swiglu, truth.swiglu)


def _cross_entropy(random: np.random.Generator) -> Iterator[Case]:
    for label, labels, vocabulary in (
        ("whole vocabulary", [0, 7, 151_935], 151_936), ("two classes", [1, 0, 1], 2), ("one class", [0], 1),
        ("some ignored", [5, -100, 0, -100], 9), ("all ignored", [-100, -100], 4),
    ):  # fmt: skip
        for dtype in (np.int32, np.int64):
            # Losses of some units: MindSpore's log_softmax on CPU is off by 3e-6 whatever the loss is.
            is_label = np.arange(vocabulary) == np.asarray(labels)[:, None]
            logits = _normal(random, len(labels), vocabulary) - np.float32(4.0) * is_label
            inputs = (logits, np.asarray(labels, dtype))
            name = f"{label}, {np.dtype(dtype).name}"
            yield _case("cross_entropy", name, inputs, cases.call_cross_entropy, truth.cross_entropy)


def _patch_embed(random: np.random.Generator) -> Iterator[Case]:
    for label, patches, fused in (("true sizes", 5, True), ("no patch", 0, False)):
        inputs = (_normal(random, patches, 1176), _normal(random, 1280, 1176) * np.float32(0.03))
        call = cases.call_patch_embed
        # Without a row there is no gradient to compare.
        yield _case("patch_embed", label, inputs, call, truth.linear, fused=fused, gradients=fused)


def _adamw(random: np.random.Generator) -> Iterator[Case]:
    for label, shape, decay, eps in (
        ("one element", (1,), 0.1, 1e-8), ("matrix", (64, 33), 0.01, 1e-8), ("no decay", (7, 2), 0.0, 1e-8),
        ("an epsilon that shows", (5, 3), 0.1, 1e-2),
    ):  # fmt: skip
        inputs = (_normal(random, *shape), *(_normal(random, *shape) for _ in range(2)))
        call = partial(cases.call_adamw, decay=decay, eps=eps)
        definition = partial(cases.adamw_truth, decay=decay, eps=eps)
        yield _case("adamw_update", label, inputs, call, definition, single=(0, 1, 2), gradients=False, jit=False)


def _case(
    kernel: str,
    label: str,
    inputs: tuple[NDArray[Any], ...],
    call: Callable[..., Tensor],
    definition: Callable[..., NDArray[np.float64]],
    **rest: Any,
) -> Case:
    return Case(kernel=kernel, label=f"contract: {label}", inputs=inputs, call=call, definition=definition, **rest)


def _normal(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.standard_normal(shape).astype(np.float32)
