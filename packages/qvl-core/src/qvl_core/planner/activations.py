"""Bytes of activations that the parts of the model keep from forward to backward, counted from the kernels.

Two counts: `fused`, the Ascend kernels (flash attention, one operation each for norm, SwiGLU and rotation), and
`reference`, the plain ones of the CPU, which keep what each of their operations needs. Cut by tensor parallelism is
what lies between a norm and the sum over the ranks (Megatron-LM, arXiv 1909.08053, section 3); the rest is whole on
every rank. Korthikanti et al. (arXiv 2205.05198), section 4, count the same way.

Legend: T tokens, P patches, D width, F FFN width, N heads, K key-value heads, H head size, L tokens of a segment.
"""

from __future__ import annotations

from qvl_core.planner.job import Engine, Kernels
from qvl_core.specs.model_spec import TextSpec, VisionSpec

FP32 = 4
# Flash attention keeps maximum and sum of every row, fp32, each laid out eight wide (CANN documentation).
_STATISTICS = 2 * 8 * FP32


def text_layer_bytes(
    text: TextSpec, tokens: float, segment: float, *, tp: int, element: int, kernels: Kernels, engine: Engine
) -> float:
    """Give what one text layer keeps of T tokens in segments of L; `element` is the size of a number."""
    width, ffn = text.hidden_size, text.intermediate_size
    queries, keys = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    shared = tp if engine.sequence_parallel else 1
    if kernels == "fused":
        # Whole: both norms' inputs and outputs. Cut: q, k, v, attention's output; gate, up and their product.
        whole, cut = 4 * width, 2 * queries + 2 * keys + 3 * ffn
        # SwiGLU's fused form wants gate and up joined: a copy of both. Rotation in fp32 keeps nothing of q and k.
        cut += 2 * ffn if engine.tape else 0
        return tokens * ((whole / shared + cut / tp) * element + _STATISTICS * text.num_heads / tp)
    return tokens * element * _reference(width, ffn, queries, keys, text.num_heads, segment, tp)


def vision_layer_bytes(
    vision: VisionSpec, patches: float, segment: float, *, tp: int, element: int, kernels: Kernels, engine: Engine
) -> float:
    """Give what one vision layer keeps of P patches in windows, or frames, of L."""
    width, ffn = vision.hidden_size, vision.intermediate_size
    shared = tp if engine.sequence_parallel else 1
    if kernels == "fused":
        whole, cut = 4 * width, 4 * width + 3 * ffn + (2 * ffn if engine.tape else 0)
        return patches * ((whole / shared + cut / tp) * element + _STATISTICS * vision.num_heads / tp)
    return patches * element * _reference(width, ffn, width, width, vision.num_heads, segment, tp)


def merger_bytes(vision: VisionSpec, patches: float, *, tp: int, element: int) -> float:
    """Give what the merger keeps: its input and the norm's output, whole; the joined rows around GELU, cut."""
    return patches * vision.hidden_size * (2 + 2 / tp) * element


def head_bytes(text: TextSpec, labels: float, *, tp: int, element: int) -> float:
    """Give what head and loss take of rows with a label, with their hidden rows and the gradient of these.

    At most three tensors of logits are there in fp32: log-probabilities, their gradient and that of the logits, which
    themselves are gone by then. Logits of another dtype are there beside their fp32 copy, and so is their gradient.
    """
    others = 0 if element == FP32 else 2 * element
    return labels * (text.vocab_size / tp * (others + 3 * FP32) + 2 * text.hidden_size * element)


def _reference(width: int, ffn: int, queries: int, keys: int, heads: int, segment: float, tp: int) -> float:
    """Count the numbers that the plain kernels keep of a row."""
    # Each norm: input, squares, the scale laid out, output.
    norms = 8 * width
    # Rotation of q and k: input, rotated half, cosines and sines laid out. Attention: scaled, gathered; v gathered.
    attention = 6 * queries + 7 * keys
    # Scores and weights of every pair in the segment; the output, gathered twice.
    pairs = 2 * heads * segment + 2 * queries
    return norms + 2 * width + (attention + pairs + 4 * ffn) / tp
