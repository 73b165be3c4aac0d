"""A spec of ours as a configuration of HF transformers, and its parameter names there. Benchmarks use it too."""

from __future__ import annotations

from qvl_core.specs.model_spec import ModelSpec
from transformers import Qwen2_5_VLConfig


def hf_name(name: str) -> str:
    """Give today's HF name of a published checkpoint name."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def hf_config(spec: ModelSpec) -> Qwen2_5_VLConfig:
    """Give HF's configuration of a spec."""
    vision, text = spec.vision, spec.text
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden_size,
            "num_heads": vision.num_heads,
            "intermediate_size": vision.intermediate_size,
            "out_hidden_size": vision.out_hidden_size,
            "in_channels": vision.in_channels,
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "window_size": vision.window_size,
            "fullatt_block_indexes": list(vision.full_attention_blocks),
            "tokens_per_second": int(vision.tokens_per_second),
        },
        text_config={
            "num_hidden_layers": text.num_layers,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "vocab_size": text.vocab_size,
            "rms_norm_eps": text.rms_norm_eps,
            "max_position_embeddings": text.max_position_embeddings,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_theta,
                "mrope_section": list(text.mrope_section),
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
        image_token_id=spec.tokens.image,
        video_token_id=spec.tokens.video,
        vision_start_token_id=spec.tokens.vision_start,
        vision_end_token_id=spec.tokens.vision_end,
        tie_word_embeddings=text.tie_word_embeddings,
    )
