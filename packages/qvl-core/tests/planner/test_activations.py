"""What activations are made of: cut by tensor parallelism, smaller with fused kernels, linear in tokens."""

from __future__ import annotations

import pytest
from qvl_core.planner.activations import head_bytes, merger_bytes, text_layer_bytes, vision_layer_bytes
from qvl_core.planner.job import MEGATRON, MEGATRON_SEQUENCE, QVL, Engine, Kernels
from qvl_core.specs.load import load_spec

SEVEN = load_spec("qwen2.5-vl-7b")


def text(
    tp: int = 1, tokens: float = 1024, segment: float = 1024, kernels: Kernels = "fused", engine: Engine = QVL
) -> float:
    return text_layer_bytes(SEVEN.text, tokens, segment, tp=tp, element=2, kernels=kernels, engine=engine)


def test_a_text_layer_keeps_what_its_operations_read() -> None:
    width, ffn, heads, keys, size = 3584, 18944, 28, 4, 128
    # Both norms in and out; q, k, v and attention's output; gate, up, product; attention's statistics.
    expected = 1024 * (2 * (4 * width + 2 * heads * size + 2 * keys * size + 3 * ffn) + 64 * heads)
    assert text(engine=MEGATRON) == expected
    # Ours joins gate and up for the fused operation.
    assert text() == expected + 1024 * 2 * 2 * ffn


@pytest.mark.parametrize("engine", [QVL, MEGATRON])
def test_tensor_parallel_cuts_all_but_norms(engine: Engine) -> None:
    whole = 1024 * 2 * 4 * SEVEN.text.hidden_size
    assert text(tp=4, engine=engine) - whole == pytest.approx((text(engine=engine) - whole) / 4)


def test_sequence_parallel_cuts_these_too() -> None:
    assert text(tp=2, engine=MEGATRON_SEQUENCE) == pytest.approx(text(engine=MEGATRON) / 2)


def test_fused_attention_does_not_depend_on_the_length_of_a_sequence() -> None:
    assert text(segment=128) == text(segment=1024)
    assert text(segment=128, kernels="reference") < text(segment=1024, kernels="reference")
    assert text() < text(kernels="reference")


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_vision_follows_patches(kernels: Kernels) -> None:
    few, many = (
        vision_layer_bytes(SEVEN.vision, patches, 64, tp=1, element=2, kernels=kernels, engine=QVL)
        for patches in (100, 1000)
    )
    assert many == pytest.approx(10 * few)


def test_merger_and_head_are_cut_by_tensor_parallel() -> None:
    assert merger_bytes(SEVEN.vision, 400, tp=2, element=2) < merger_bytes(SEVEN.vision, 400, tp=1, element=2)
    one, two = (head_bytes(SEVEN.text, 10, tp=tp, element=2) for tp in (1, 2))
    assert one / 2 < two < one
