"""How much work each part of the model is: multiplications of its forward pass, counted from the spec.

Matrix products only; norms, rotary positions and activations are small beside them. The counts balance derived stage
lists and feed the simulated clock: they compare parts with each other, they do not predict seconds.
"""

from __future__ import annotations

from qvl_core.specs.model_spec import TextSpec, VisionSpec


def text_layer(text: TextSpec) -> int:
    """Count a text layer's projections and FFN, for one token."""
    attention = 2 * text.hidden_size * text.head_dim * (text.num_heads + text.num_kv_heads)
    return attention + 3 * text.hidden_size * text.intermediate_size


def text_attention(text: TextSpec, tokens: int) -> int:
    """Count scores and weighted sums of one text layer for a whole sequence; causal: half of all pairs."""
    return tokens**2 * text.num_heads * text.head_dim


def output_head(text: TextSpec) -> int:
    """Count the output head, for one token with a label: the others skip it."""
    return text.hidden_size * text.vocab_size


def patch_embedding(vision: VisionSpec) -> int:
    """Count the patch embedding, for one patch."""
    return vision.patch_dim * vision.hidden_size


def vision_layer(vision: VisionSpec) -> int:
    """Count a vision layer's projections and FFN, for one patch."""
    return 4 * vision.hidden_size**2 + 3 * vision.hidden_size * vision.intermediate_size


def vision_attention(vision: VisionSpec, layer: int, frame: int) -> int:
    """Count scores and weighted sums of one vision layer for a frame of so many patches: all pairs, or within windows.

    Windows at the border are counted as whole ones.
    """
    window = (vision.window_size // vision.patch_size) ** 2
    seen = frame if layer in vision.full_attention_blocks else min(frame, window)
    return 2 * frame * seen * vision.hidden_size


def merger(vision: VisionSpec) -> int:
    """Count the merger's two linears, for one merged token."""
    merged = vision.hidden_size * vision.merge_unit
    return merged**2 + merged * vision.out_hidden_size
