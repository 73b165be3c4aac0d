"""A model spec from an HF `config.json`, in every spelling that the family has been published in, and back.

Three spellings exist: the flat one of the first release (text keys at the top, `rope_scaling`), the nested one
(`text_config`, `vision_config`), and that of transformers 5 (`rope_parameters` instead of `rope_theta` and
`rope_scaling`). Defaults of optional keys are those of the HF classes `Qwen2_5_VLConfig`, `Qwen2_5_VLTextConfig`
and `Qwen2_5_VLVisionConfig`; sizes have none here, because a guessed size is a wrong model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qvl_core.errors import Problem, WeightsError
from qvl_core.specs.config_reader import ConfigReader
from qvl_core.specs.model_spec import ModelSpec, PositionRule, TextSpec, TokenIds, VisionSpec

MODEL_TYPE = "qwen2_5_vl"
# Layers and heads are counted one by one when a layout is checked: a damaged config must not keep us busy for hours.
_COUNT_LIMIT = 10_000


def spec_from_hf_config(config: Mapping[str, Any], *, where: str, name: str) -> ModelSpec:
    """Give the spec that a config describes. Raises WeightsError with every problem, each naming `where` and key."""
    problems: list[Problem] = []
    top = ConfigReader([("", config)], where=where, problems=problems)
    _check_kind(top)
    if problems:
        # A config of another family would add dozens of problems that all mean the same.
        raise WeightsError(problems)
    text_config, vision_config = top.table("text_config"), top.table("vision_config")
    if "vision_config" not in config:
        top.complain("vision_config", "is missing")
    # Nested keys win: transformers 4.5x wrote some keys in both places and read the nested ones.
    text_sections = [("text_config.", text_config), ("", config)] if text_config else [("", config)]
    spec = ModelSpec(
        name=name,
        vision=_vision(ConfigReader([("vision_config.", vision_config)], where=where, problems=problems)),
        text=_text(ConfigReader(text_sections, where=where, problems=problems)),
        tokens=_tokens(top),
        position_rule=_position_rule(config.get("transformers_version")),
    )
    if not problems:
        _check_together(spec, top)
    if problems:
        raise WeightsError(problems)
    return spec


def _position_rule(version: object) -> PositionRule:
    """Tell from the version that wrote a checkpoint which positions it was run with; none stated means an older one."""
    major = version.split(".")[0] if isinstance(version, str) else ""
    return "transformers5" if major.isdecimal() and int(major) >= 5 else "paper"


def to_hf_config(spec: ModelSpec) -> dict[str, Any]:
    """Give the flat `config.json` content of a spec. `spec_from_hf_config` turns it back into the same spec."""
    text, vision, tokens = spec.text, spec.vision, spec.tokens
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "vision_start_token_id": tokens.vision_start,
        "vision_end_token_id": tokens.vision_end,
        "image_token_id": tokens.image,
        "video_token_id": tokens.video,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_position_embeddings,
        "model_type": MODEL_TYPE,
        "num_attention_heads": text.num_heads,
        "num_hidden_layers": text.num_layers,
        "num_key_value_heads": text.num_kv_heads,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "rope_theta": text.rope_theta,
        "tie_word_embeddings": text.tie_word_embeddings,
        "transformers_version": "5.0.0" if spec.position_rule == "transformers5" else "4.49.0",
        "use_sliding_window": False,
        "vision_config": _vision_to_hf(vision),
        "vocab_size": text.vocab_size,
    }


def _vision_to_hf(vision: VisionSpec) -> dict[str, Any]:
    seconds = vision.tokens_per_second
    return {
        "depth": vision.depth,
        "fullatt_block_indexes": list(vision.full_attention_blocks),
        "hidden_act": "silu",
        "hidden_size": vision.hidden_size,
        "in_channels": vision.in_channels,
        "intermediate_size": vision.intermediate_size,
        "num_heads": vision.num_heads,
        "out_hidden_size": vision.out_hidden_size,
        "patch_size": vision.patch_size,
        "rope_theta": vision.rope_theta,
        "spatial_merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        # The HF class declares a whole number and newer versions check it.
        "tokens_per_second": int(seconds) if seconds == int(seconds) else seconds,
        "window_size": vision.window_size,
    }


def _check_kind(top: ConfigReader) -> None:
    found = top.get("model_type")
    if found != MODEL_TYPE:
        shown = "is missing" if found is None else f"is {str(found)[:60]!r}"
        top.complain("model_type", f"{shown}; qvl reads {MODEL_TYPE!r} (Qwen2.5-VL)", "give a Qwen2.5-VL checkpoint")
    if top.get("quantization_config") is not None:
        top.complain(
            "quantization_config",
            "the checkpoint is quantised; qvl reads bfloat16, float16 and float32 weights",
            "use the checkpoint that was not quantised",
        )
    if top.get("auto_map") is not None:
        top.complain(
            "auto_map",
            "the checkpoint asks for code of its own; qvl never runs code from a checkpoint",
            "if the model is a plain Qwen2.5-VL, delete this key",
        )


def _vision(reader: ConfigReader) -> VisionSpec:
    reader.only("hidden_act", ("silu",), "the vision MLP is built for one activation")
    reader.only("model_type", ("qwen2_5_vl", "qwen2_5_vl_vision"), "not a vision part of this family")
    rope = _section(reader, "rope_parameters")
    rope.only("rope_type", ("default", "axial"), "vision rotary positions are built for one kind")
    depth = reader.integer("depth", most=_COUNT_LIMIT)
    # A shorter tower often keeps the list of the full one; HF passes over the blocks that it does not have.
    blocks = {block for block in reader.integers("fullatt_block_indexes", (7, 15, 23, 31)) if block < depth}
    vision = VisionSpec(
        depth=depth,
        hidden_size=reader.integer("hidden_size"),
        num_heads=reader.integer("num_heads", most=_COUNT_LIMIT, spellings=("num_attention_heads",)),
        intermediate_size=reader.integer("intermediate_size"),
        out_hidden_size=reader.integer("out_hidden_size"),
        in_channels=reader.integer("in_channels", 3, spellings=("in_chans",)),
        patch_size=reader.integer("patch_size", 14),
        temporal_patch_size=reader.integer("temporal_patch_size", 2),
        spatial_merge_size=reader.integer("spatial_merge_size", 2),
        window_size=reader.integer("window_size", 112),
        full_attention_blocks=tuple(sorted(blocks)),
        tokens_per_second=reader.number("tokens_per_second", 4.0),
        rope_theta=rope.number("rope_theta", reader.number("rope_theta", 10000.0)),
    )
    if not reader.problems:
        _check_vision(vision, reader)
    return vision


def _check_vision(vision: VisionSpec, reader: ConfigReader) -> None:
    if vision.hidden_size % vision.num_heads:
        reader.complain("hidden_size", f"{vision.hidden_size} does not divide by num_heads = {vision.num_heads}")
    elif vision.head_dim % 4:
        reader.complain(
            "num_heads",
            f"gives heads of {vision.head_dim}; rotary positions in two axes need a multiple of 4",
        )
    cell = vision.patch_size * vision.spatial_merge_size
    if vision.window_size < cell:
        reader.complain(
            "window_size",
            f"{vision.window_size} pixels are less than one merged patch of {cell} (patch_size {vision.patch_size} x "
            f"spatial_merge_size {vision.spatial_merge_size})",
        )


def _text(reader: ConfigReader) -> TextSpec:
    reader.only("hidden_act", ("silu",), "the text MLP is built for one activation")
    reader.only("use_sliding_window", (False,), "sliding-window attention is not built")
    kinds = reader.get("layer_types")
    if kinds is not None and not (isinstance(kinds, (list, tuple)) and all(kind == "full_attention" for kind in kinds)):
        reader.complain("layer_types", "names layers that are not 'full_attention'; no other kind is built")
    heads, hidden = reader.integer("num_attention_heads", most=_COUNT_LIMIT), reader.integer("hidden_size")
    section, theta = _rope(reader)
    text = TextSpec(
        num_layers=reader.integer("num_hidden_layers", most=_COUNT_LIMIT),
        hidden_size=hidden,
        intermediate_size=reader.integer("intermediate_size"),
        num_heads=heads,
        num_kv_heads=reader.integer("num_key_value_heads", heads),
        vocab_size=reader.integer("vocab_size"),
        tie_word_embeddings=reader.flag("tie_word_embeddings"),
        head_dim=reader.integer("head_dim", max(1, hidden // heads)),
        mrope_section=section,
        rope_theta=theta,
        rms_norm_eps=reader.number("rms_norm_eps", 1e-5),
        max_position_embeddings=reader.integer("max_position_embeddings", 32768),
    )
    if not reader.problems:
        _check_text(text, reader)
    return text


def _check_text(text: TextSpec, reader: ConfigReader) -> None:
    if text.hidden_size % text.num_heads:
        reader.complain("hidden_size", f"{text.hidden_size} does not divide by num_attention_heads = {text.num_heads}")
    elif text.head_dim * text.num_heads != text.hidden_size:
        reader.complain(
            "head_dim", f"{text.head_dim} x {text.num_heads} heads are not hidden_size = {text.hidden_size}"
        )
    if text.num_heads % text.num_kv_heads:
        reader.complain(
            "num_key_value_heads", f"{text.num_kv_heads} does not divide num_attention_heads = {text.num_heads}"
        )
    if 2 * sum(text.mrope_section) != text.head_dim:
        reader.complain(
            "rope_scaling" if reader.get("rope_parameters") is None else "rope_parameters",
            f"mrope_section {list(text.mrope_section)} adds up to {sum(text.mrope_section)}; half a head of "
            f"{text.head_dim} is {text.head_dim / 2:g}",
        )


def _rope(reader: ConfigReader) -> tuple[tuple[int, int, int], float]:
    """Give the M-RoPE sections and the base, from `rope_parameters` or from `rope_scaling` and `rope_theta`."""
    name = "rope_parameters" if reader.get("rope_parameters") is not None else "rope_scaling"
    rope = _section(reader, name)
    for key in ("rope_type", "type"):
        rope.only(key, ("default", "mrope"), "rotary positions are built for these kinds only")
    section = rope.integers("mrope_section", (16, 24, 24))
    if len(section) != 3:
        rope.complain("mrope_section", f"needs 3 numbers (time, height, width), has {len(section)}")
        section = (16, 24, 24)
    theta = rope.number("rope_theta", reader.number("rope_theta", 1e6))
    return (section[0], section[1], section[2]), theta


def _tokens(top: ConfigReader) -> TokenIds:
    usual = TokenIds()
    return TokenIds(
        vision_start=top.integer("vision_start_token_id", usual.vision_start, least=0),
        vision_end=top.integer("vision_end_token_id", usual.vision_end, least=0),
        image=top.integer("image_token_id", usual.image, least=0),
        video=top.integer("video_token_id", usual.video, least=0),
    )


def _check_together(spec: ModelSpec, top: ConfigReader) -> None:
    if spec.vision.out_hidden_size != spec.text.hidden_size:
        top.complain(
            "vision_config.out_hidden_size",
            f"the merger gives {spec.vision.out_hidden_size} numbers a token, the text decoder takes "
            f"{spec.text.hidden_size}",
        )
    ids = {
        "vision_start_token_id": spec.tokens.vision_start,
        "vision_end_token_id": spec.tokens.vision_end,
        "image_token_id": spec.tokens.image,
        "video_token_id": spec.tokens.video,
    }
    for key, value in ids.items():
        if value >= spec.text.vocab_size:
            top.complain(key, f"is {value}; vocab_size = {spec.text.vocab_size} allows 0 to {spec.text.vocab_size - 1}")
        shared = [other for other, taken in ids.items() if taken == value and other < key]
        if shared:
            top.complain(key, f"is {value}, and so is {shared[0]}")


def _section(reader: ConfigReader, key: str) -> ConfigReader:
    return ConfigReader([(f"{reader.path_of(key)}.", reader.table(key))], where=reader.where, problems=reader.problems)
