"""The shipped models made narrow: depth, stage lists, tying and windows stay, widths shrink so that 16 processes fit.

The vocabulary and its token ids are those of the tiny model, so that its tokenizer fits.
"""

from __future__ import annotations

from dataclasses import replace

from qvl_core.specs import load_spec
from qvl_core.specs.model_spec import ModelSpec, TextSpec, VisionSpec

# The smallest text head with a frequency for each of time, height and width that is still a multiple of 4.
TEXT_HEAD, TEXT_SECTION = 8, (1, 1, 2)
VISION_HEAD = 8
# Of each kind on every tensor rank: with one alone, a wrong order of heads would go unseen.
HEADS_PER_RANK = 2


def narrow(spec: ModelSpec, tp: int) -> ModelSpec:
    """Give the model with reduced widths, for a layout that cuts it `tp` ways."""
    tiny = load_spec("qwen2.5-vl-tiny")
    text = _narrow_text(spec.text, tp, tiny.text.vocab_size)
    vision = _narrow_vision(spec.vision, tp, text.hidden_size)
    return replace(spec, name="narrow", text=text, vision=vision, tokens=tiny.tokens)


def _narrow_text(text: TextSpec, tp: int, vocabulary: int) -> TextSpec:
    kv_heads = HEADS_PER_RANK * tp
    heads = kv_heads * (text.num_heads // text.num_kv_heads)
    width = heads * TEXT_HEAD
    return replace(
        text,
        hidden_size=width,
        intermediate_size=_scaled(text.intermediate_size, width / text.hidden_size, tp),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=TEXT_HEAD,
        mrope_section=TEXT_SECTION,
        vocab_size=vocabulary,
    )


def _narrow_vision(vision: VisionSpec, tp: int, out: int) -> VisionSpec:
    heads = HEADS_PER_RANK * tp
    width = heads * VISION_HEAD
    return replace(
        vision,
        hidden_size=width,
        intermediate_size=_scaled(vision.intermediate_size, width / vision.hidden_size, tp),
        num_heads=heads,
        out_hidden_size=out,
    )


def _scaled(size: int, factor: float, multiple: int) -> int:
    return max(1, round(size * factor / multiple)) * multiple
