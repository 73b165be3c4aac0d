"""The models that the layout tests train: the shipped tiny one, and odd ones that allow more tensor ranks."""

from __future__ import annotations

from qvl_core.specs import load_spec
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

_TOKENS = TokenIds(vision_start=90, vision_end=91, image=92, video=93)

# Four key-value heads, output head of its own, small patches, three deep each.
FOUR = ModelSpec(
    name="four",
    vision=VisionSpec(
        depth=3, hidden_size=32, num_heads=4, intermediate_size=36, out_hidden_size=48, patch_size=4, window_size=16,
        full_attention_blocks=(0, 2),
    ),
    text=TextSpec(
        num_layers=3, hidden_size=48, intermediate_size=52, num_heads=12, num_kv_heads=4, head_dim=8, vocab_size=100,
        tie_word_embeddings=False, mrope_section=(1, 1, 2),
    ),
    tokens=_TOKENS,
)  # fmt: skip
# As many key-value heads as query heads, tied, whole frames nowhere.
EIGHT = ModelSpec(
    name="eight",
    vision=VisionSpec(
        depth=2, hidden_size=64, num_heads=8, intermediate_size=40, out_hidden_size=32, patch_size=7, window_size=28,
        full_attention_blocks=(), in_channels=1,
    ),
    text=TextSpec(
        num_layers=2, hidden_size=32, intermediate_size=88, num_heads=8, num_kv_heads=8, head_dim=12, vocab_size=96,
        tie_word_embeddings=True, mrope_section=(2, 2, 2), rope_theta=1e4,
    ),
    tokens=_TOKENS,
)  # fmt: skip
# One key-value head, so no tensor ranks; nine patches to a token, whole frames everywhere, single frames.
DEEP = ModelSpec(
    name="deep",
    vision=VisionSpec(
        depth=2, hidden_size=24, num_heads=3, intermediate_size=20, out_hidden_size=20, patch_size=2,
        spatial_merge_size=3, temporal_patch_size=1, window_size=12, full_attention_blocks=(0, 1),
    ),
    text=TextSpec(
        num_layers=6, hidden_size=20, intermediate_size=26, num_heads=5, num_kv_heads=1, head_dim=6, vocab_size=95,
        tie_word_embeddings=True, mrope_section=(1, 1, 1),
    ),
    tokens=_TOKENS,
)  # fmt: skip
# Two key-value heads for eight query heads, one vision layer, untied.
FLAT = ModelSpec(
    name="flat",
    vision=VisionSpec(
        depth=1, hidden_size=16, num_heads=2, intermediate_size=24, out_hidden_size=40, patch_size=4, window_size=32,
        full_attention_blocks=(0,), tokens_per_second=4.0,
    ),
    text=TextSpec(
        num_layers=5, hidden_size=40, intermediate_size=30, num_heads=8, num_kv_heads=2, head_dim=4, vocab_size=98,
        tie_word_embeddings=False, mrope_section=(1, 0, 1), rms_norm_eps=1e-5,
    ),
    tokens=_TOKENS,
)  # fmt: skip

TINY = load_spec("qwen2.5-vl-tiny")
SPECS: dict[str, ModelSpec] = {"tiny": TINY, "four": FOUR, "eight": EIGHT, "deep": DEEP, "flat": FLAT}
