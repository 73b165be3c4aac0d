"""The cases of the conformance suite: for each kernel ordinary and edge shapes, with the definition beside the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from qvl_core.conformance import truth
from qvl_core.kernels.segments import HIDDEN, Segments, build_segments
from qvl_core.kernels.select import KernelTable

# Weights of a definition are floats of any precision or integers (ids, labels, lengths).
Input = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel on one set of inputs.

    `call` runs a table's kernel on tensors of `inputs`; `definition` is the same in float64 numpy. Float inputs are
    differentiated, in full or, where they are many, along random directions.
    """

    kernel: str
    label: str
    inputs: tuple[Input, ...]
    call: Callable[..., Tensor]
    definition: Callable[..., NDArray[np.float64]]
    # Inputs that stay fp32 in a half-precision run and are not differentiated (rotary angles).
    single: tuple[int, ...] = ()
    gradients: bool = True
    jit: bool = True
    # Whether half-precision inputs are inside of the domain of the kernel's fused form, if it has one.
    fused: bool = True


def all_cases(seed: int = 2025) -> tuple[Case, ...]:
    """Return every case, the same ones for the same seed."""
    random = np.random.default_rng(seed)
    makers = (
        _linear,
        _tokens,
        _norm,
        _activations,
        _split_qkv,
        _rope,
        _attention,
        _decode,
        _cross_entropy,
        _adamw,
        _flat,
    )
    return tuple(case for maker in makers for case in maker(random))


def _normal(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.standard_normal(shape).astype(np.float32)


def _linear(random: np.random.Generator) -> Iterator[Case]:
    shapes: tuple[tuple[str, tuple[int, ...], int, bool], ...] = (
        ("one row", (1, 6), 5, False),
        ("rows, bias", (7, 6), 5, True),
        ("3-D, bias", (2, 3, 6), 4, True),
        ("one output", (4, 6), 1, False),
    )
    for label, shape, outputs, biased in shapes:
        inputs = [_normal(random, *shape), _normal(random, outputs, shape[-1])]
        if biased:
            inputs.append(_normal(random, outputs))
        call, definition = _call_linear, truth.linear
        yield Case(kernel="linear", label=label, inputs=tuple(inputs), call=call, definition=definition)
    for label, patches in (("one patch", 1), ("patches", 8)):
        yield Case(
            kernel="patch_embed", label=label, inputs=(_normal(random, patches, 12), _normal(random, 5, 12)),
            call=call_patch_embed, definition=truth.linear,
        )  # fmt: skip
    yield Case(
        kernel="patch_embed", label="no patch", inputs=(_normal(random, 0, 12), _normal(random, 5, 12)),
        call=call_patch_embed, definition=truth.linear, gradients=False, jit=False,
    )  # fmt: skip


def _tokens(random: np.random.Generator) -> Iterator[Case]:
    for label, ids in (("one token", [3]), ("repeated ids", [4, 0, 4, 4, 6]), ("2-D ids", [[1, 2], [2, 5]])):
        yield Case(
            kernel="embedding", label=label, inputs=(_normal(random, 7, 4), np.asarray(ids, np.int32)),
            call=_call_embedding, definition=truth.embedding,
        )  # fmt: skip
    for label, units, index in (
        ("text and vision", 3, [0, 5, 6, 3, 7]),
        ("all vision", 5, [5, 6, 7, 8, 9]),
        ("one unit", 1, [0, 1, 5, 3, 4]),
    ):
        yield Case(
            kernel="merge_tokens", label=label,
            inputs=(_normal(random, 5, 4), _normal(random, units, 4), np.asarray(index, np.int32)),
            call=_call_merge_tokens, definition=truth.merge_tokens,
        )  # fmt: skip
    yield Case(
        kernel="merge_tokens", label="no vision",
        inputs=(_normal(random, 5, 4), _normal(random, 0, 4), np.arange(5, dtype=np.int32)),
        call=_call_merge_tokens, definition=truth.merge_tokens, gradients=False, jit=False,
    )  # fmt: skip


def _norm(random: np.random.Generator) -> Iterator[Case]:
    for label, shape, size in (
        ("one token", (1, 8), 1.0), ("tokens", (5, 8), 1.0), ("3-D", (3, 2, 8), 1.0),
        ("large numbers", (4, 8), 300.0), ("tiny numbers", (4, 8), 1e-3),
    ):  # fmt: skip
        yield Case(
            kernel="rms_norm", label=label,
            inputs=(_normal(random, *shape) * np.float32(size), _normal(random, shape[-1])),
            call=call_rms_norm, definition=partial(truth.rms_norm, eps=1e-6),
        )  # fmt: skip


def _activations(random: np.random.Generator) -> Iterator[Case]:
    for label, shape, size in (("one token", (1, 6), 1.0), ("tokens", (5, 6), 1.0), ("saturated", (3, 6), 12.0)):
        gate, up = _normal(random, *shape) * np.float32(size), _normal(random, *shape)
        yield Case(kernel="swiglu", label=label, inputs=(gate, up), call=call_swiglu, definition=truth.swiglu)
        x = _normal(random, *shape) * np.float32(size)
        yield Case(kernel="gelu", label=label, inputs=(x,), call=_call_gelu, definition=truth.gelu)


def _split_qkv(random: np.random.Generator) -> Iterator[Case]:
    for label, rows, heads, size in (("one row", 1, 2, 4), ("one head", 3, 1, 6), ("rows", 5, 3, 2)):
        x = _normal(random, rows, 3 * heads * size)
        for i, which in enumerate("qkv"):
            yield Case(
                kernel="split_qkv",
                label=f"{which}, {label}",
                inputs=(x,),
                call=partial(_call_split_qkv, i, size),
                definition=partial(_split_of, i, size),
                # Compiled, MindSpore 2.10 cuts the gradient at the order of the rows; nothing compiles it.
                jit=False,
            )


def _split_of(which: int, size: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x.reshape(len(x), 3, -1, size)[:, which]


def _call_split_qkv(which: int, size: int, table: KernelTable, x: Tensor) -> Tensor:
    return table.split_qkv(x, size)[which]


def _rope(random: np.random.Generator) -> Iterator[Case]:
    for label, tokens, heads, size in (("one token", 1, 2, 8), ("tokens", 5, 3, 8), ("one head", 4, 1, 16)):
        angles = np.tile(random.uniform(0.0, 50.0, (tokens, size // 2)), 2)
        cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        yield Case(
            kernel="rope", label=label, inputs=(_normal(random, tokens, heads, size), cosines, sines),
            call=call_rope, definition=truth.rope, single=(1, 2),
        )  # fmt: skip


def _attention(random: np.random.Generator) -> Iterator[Case]:
    shapes: tuple[tuple[str, tuple[int, ...], int, int, int], ...] = (
        ("one token", (1,), 2, 2, 2**24),
        ("one segment", (6,), 2, 2, 2**24),
        ("one segment, GQA 2", (6,), 4, 2, 2**24),
        ("one segment, one kv head", (5,), 3, 1, 2**24),
        ("equal segments", (4, 4, 4), 2, 2, 2**24),
        ("equal segments, GQA 2", (3, 3), 4, 2, 2**24),
        ("two lengths, GQA 3", (2, 5), 6, 2, 2**24),
        ("gathered windows", (4, 2, 4, 2, 1, 4, 2), 2, 2, 2**24),
        ("gathered and padded", (1, 2, 3, 4, 5, 6, 2, 1), 4, 2, 2**24),
        ("pieces of segments", (3, 3, 3, 3, 3), 2, 1, 40),
        ("pieces of queries", (7, 2), 4, 2, 60),
    )
    for label, lengths, heads, kv_heads, most in shapes:
        tokens, segments = sum(lengths), build_segments(lengths, most_scores=most, group_cost=0)
        inputs = tuple(_normal(random, tokens, n, 16) for n in (heads, kv_heads, kv_heads))
        for causal in (False, True):
            call = _attention_call(segments, causal)
            definition = partial(truth.attention, lengths=lengths, causal=causal, scale=0.25)
            name = f"{label}, {'causal' if causal else 'full'}"
            # Compiling is the slow part: the full form is compiled where it differs from the causal one by padding.
            compiled = causal or "padded" in label
            yield Case(
                kernel="attention", label=name, inputs=inputs, call=call, definition=definition, jit=compiled
            )  # fmt: skip


def _decode(random: np.random.Generator) -> Iterator[Case]:
    for label, lengths, slots, heads, kv_heads in (
        ("one sequence, one slot", [1], 1, 2, 2), ("filled to different lengths", [1, 4, 6], 6, 2, 2),
        ("GQA 3", [2, 5], 7, 6, 2),
    ):  # fmt: skip
        batch = len(lengths)
        caches = (_normal(random, batch, kv_heads, slots, 16), _normal(random, batch, kv_heads, slots, 16))
        is_empty = np.arange(slots) >= np.asarray(lengths)[:, None]
        yield Case(
            kernel="decode_attention", label=label,
            inputs=(_normal(random, batch, heads, 16), *caches, np.where(is_empty, HIDDEN, 0.0).astype(np.float32)),
            call=_call_decode, definition=partial(truth.decode_attention, scale=0.25), gradients=False,
        )  # fmt: skip


def _cross_entropy(random: np.random.Generator) -> Iterator[Case]:
    for label, labels, size in (
        ("one token", [2], 1.0), ("some ignored", [1, -100, 6, 0, -100], 1.0), ("all ignored", [-100, -100], 1.0),
        ("large logits", [3, -100, 0], 1000.0),
    ):  # fmt: skip
        yield Case(
            kernel="cross_entropy", label=label,
            inputs=(_normal(random, len(labels), 7) * np.float32(size), np.asarray(labels, np.int32)),
            call=call_cross_entropy, definition=truth.cross_entropy,
        )  # fmt: skip


def _adamw(random: np.random.Generator) -> Iterator[Case]:
    for label, shape, decay, eps in (
        ("3 steps", (4, 3), 0.0, 1e-8), ("3 steps, decay", (5,), 0.1, 1e-8), ("3 steps, large eps", (1, 6), 0.1, 1e-2),
    ):  # fmt: skip
        gradients = tuple(_normal(random, *shape) for _ in range(3))
        definition = partial(adamw_truth, decay=decay, eps=eps)
        yield Case(
            kernel="adamw_update", label=label, inputs=(_normal(random, *shape), *gradients),
            call=partial(call_adamw, decay=decay, eps=eps), definition=definition, gradients=False, jit=False,
            single=(0, 1, 2, 3),
        )  # fmt: skip


def _flat(random: np.random.Generator) -> Iterator[Case]:
    # Sizes with and without a rest of the runs that are added in fp32; one element; a tensor without any.
    for label, shapes in (("one", ((7,),)), ("several", ((3, 4), (1,), (5,))), ("long", ((40, 64), (1025,), (0,)))):
        inputs = tuple(_normal(random, *shape) for shape in shapes)
        for kernel, call, definition in (
            ("join", _call_join, truth.join), ("deal", _call_deal, truth.join),
            ("sum_of_squares", _call_sum_of_squares, truth.sum_of_squares),
        ):  # fmt: skip
            yield Case(
                kernel=kernel, label=label, inputs=inputs, call=call, definition=definition, gradients=False, jit=False,
                single=tuple(range(len(inputs))),
            )  # fmt: skip


# One call for each kernel, as named functions: jit reads their source.


def _call_linear(table: KernelTable, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return table.linear(x, weight, bias)


def call_patch_embed(table: KernelTable, patches: Tensor, weight: Tensor) -> Tensor:
    """Embed patches."""
    return table.patch_embed(patches, weight)


def _call_embedding(table: KernelTable, weight: Tensor, ids: Tensor) -> Tensor:
    return table.embedding(weight, ids)


def _call_merge_tokens(table: KernelTable, text: Tensor, vision: Tensor, index: Tensor) -> Tensor:
    return table.merge_tokens(text, vision, index)


def call_rms_norm(table: KernelTable, x: Tensor, weight: Tensor) -> Tensor:
    """Normalise with the epsilon of the published models."""
    return table.rms_norm(x, weight, 1e-6)


def call_swiglu(table: KernelTable, gate: Tensor, up: Tensor) -> Tensor:
    """Gate."""
    return table.swiglu(gate, up)


def _call_gelu(table: KernelTable, x: Tensor) -> Tensor:
    return table.gelu(x)


def call_rope(table: KernelTable, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate."""
    return table.rope(x, cosines, sines)


def _attention_call(segments: Segments, causal: bool) -> Callable[..., Tensor]:
    # A closure, not a partial: what jit cannot read (a partial with keywords) it runs in the interpreter instead, and
    # then the gradient is zero, without a word.
    def call(table: KernelTable, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return table.attention(q, k, v, segments, causal=causal, scale=0.25)

    return call


def _call_decode(table: KernelTable, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    return table.decode_attention(q, keys, values, bias, scale=0.25)


def call_cross_entropy(table: KernelTable, logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss of each token."""
    return table.cross_entropy(logits, labels)


def call_adamw(table: KernelTable, value: Tensor, *gradients: Tensor, decay: float, eps: float) -> Tensor:
    """Update a parameter once for each gradient; return it."""
    start = value.asnumpy()
    parameter, first, second = (Parameter(Tensor(x.copy())) for x in (start, 0 * start, 0 * start))
    for step, gradient in enumerate(gradients, start=1):
        table.adamw_update(
            parameter, first, second, gradient,
            lr=0.1, beta1=0.9, beta2=0.99, eps=eps, weight_decay=decay, step=step,
        )  # fmt: skip
    return Tensor(parameter.asnumpy())


def _call_join(table: KernelTable, *tensors: Tensor) -> Tensor:
    return table.join(tensors)


def _call_deal(table: KernelTable, *tensors: Tensor) -> Tensor:
    """Deal the joined elements to parameters, join those."""
    flat = Tensor(np.concatenate([tensor.asnumpy().reshape(-1) for tensor in tensors]))
    parameters = [Parameter(Tensor(np.zeros(tensor.shape, np.float32))) for tensor in tensors]
    table.deal(flat, parameters)
    return Tensor(np.concatenate([parameter.asnumpy().reshape(-1) for parameter in parameters]))


def _call_sum_of_squares(table: KernelTable, *tensors: Tensor) -> Tensor:
    return Tensor(np.array([table.sum_of_squares(tensors)]))


def adamw_truth(
    value: NDArray[np.float64], *gradients: NDArray[np.float64], decay: float, eps: float
) -> NDArray[np.float64]:
    """Return what `call_adamw` has to give."""
    return truth.adamw(value, gradients, lr=0.1, betas=(0.9, 0.99), eps=eps, decay=decay)
