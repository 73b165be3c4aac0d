"""The model file's structure against the published one: qvl knows the models by name and takes nothing else from it."""

from __future__ import annotations

from typing import Any

from qvl_core.migrate.accounts import probably
from qvl_core.migrate.fates import NO_COUNTERPART_MODEL, NO_COUNTERPART_OPTIONS, NOT_COMPARED, RECOMPUTE
from qvl_core.migrate.folder import Sheet
from qvl_core.migrate.job import Job
from qvl_core.migrate.ledger import Setting
from qvl_core.specs import load_spec, shipped_names
from qvl_core.specs.model_spec import ModelSpec

# Their name -> the attribute of ours.
_TEXT_FIELDS = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "intermediate_size": "intermediate_size",
    "num_attention_heads": "num_heads",
    "num_query_groups": "num_kv_heads",
    "num_key_value_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
    "head_dim": "head_dim",
    "kv_channels": "head_dim",
    "mrope_section": "mrope_section",
    "rope_theta": "rope_theta",
    "rotary_base": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
    "layernorm_epsilon": "rms_norm_eps",
    "max_position_embeddings": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
}
_VISION_FIELDS = {
    "num_layers": "depth",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "intermediate_size": "intermediate_size",
    "num_attention_heads": "num_heads",
    "in_channels": "in_channels",
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "spatial_merge_size": "spatial_merge_size",
    "window_size": "window_size",
    "window_attn_size": "window_size",
    "fullatt_block_indexes": "full_attention_blocks",
    "tokens_per_second": "tokens_per_second",
    "layernorm_epsilon": "rms_norm_eps",
}
_TOKEN_FIELDS = {
    "vision_start_token_id": "vision_start",
    "vision_end_token_id": "vision_end",
    "image_token_id": "image",
    "video_token_id": "video",
}
# Options of the structure -> the text part's key that was used in their place.
_ECHOES = {
    "vocab-size": "vocab_size",
    "num-layers": "num_layers",
    "hidden-size": "hidden_size",
    "ffn-hidden-size": "ffn_hidden_size",
    "num-attention-heads": "num_attention_heads",
    "num-query-groups": "num_query_groups",
    "max-position-embeddings": "max_position_embeddings",
    "rotary-base": "rope_theta",
    "normalization": "normalization",
    "position-embedding-type": "position_embedding_type",
}
_FLOAT = ("bf16", "bfloat16")
_SECTIONS = {"mrope_section": [16, 24, 24]}
# As the model files have it, as HF's config.json has it, and as newer releases of transformers write that.
_ROPE_SCALING = (
    None,
    {"type": "mrope", **_SECTIONS},
    {"type": "mrope", "rope_type": "mrope", **_SECTIONS},
    {"type": "mrope", "rope_type": "default", **_SECTIONS},
    {"type": "default", "rope_type": "default", **_SECTIONS},
    {"rope_type": "default", **_SECTIONS},
)
# What all published models have in common; the model file may say otherwise, and was believed.
_TEXT_CONSTANTS: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "activation_func": ("silu",),
    "gated_linear_unit": (True,),
    "group_query_attention": (True,),
    "position_embedding_type": ("mrope",),
    "rope_scaling": _ROPE_SCALING,
    "add_qkv_bias": (True,),
    "add_bias_linear": (False,),
    "disable_bias_linear": (True,),
    "qk_layernorm": (False,),
    "params_dtype": _FLOAT,
    "bf16": (True,),
    "fp16": (False,),
}
_VISION_CONSTANTS: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "activation_func": ("silu",),
    "gated_linear_unit": (True,),
    "post_layer_norm": (False,),
    "params_dtype": _FLOAT,
    "bf16": (True,),
    "fp16": (False,),
}
_PROJECTOR_CONSTANTS: dict[str, tuple[Any, ...]] = {
    "num_attention_heads": (1,),
    "normalization": ("RMSNorm",),
    "activation_func": ("gelu",),
    "gated_linear_unit": (False,),
    "add_bias_linear": (True,),
    "params_dtype": _FLOAT,
    "bf16": (True,),
}
# Degrees that inference and evaluation files repeat: their key -> the script's option and variable.
_DEGREES = {
    "tensor_model_parallel_size": ("tensor-model-parallel-size", "TP"),
    "pipeline_model_parallel_size": ("pipeline-model-parallel-size", "PP"),
}
_TABLES = ("text_decoder", "image_encoder")
# Read by rules of their own.
_ELSEWHERE = (
    *("freeze", "pipeline_num_layers", *RECOMPUTE),
    *NO_COUNTERPART_MODEL,
)


def name_by_sizes(model: Sheet) -> str | None:
    """Give the published model whose text part has the file's depth and width; None where there is none."""
    found = {key: model.get("text_decoder", key) for key in ("num_layers", "hidden_size")}
    for name in shipped_names():
        text = load_spec(name).text
        if all(setting and setting.value == getattr(text, key) for key, setting in found.items()):
            return name
    return None


def compare_structure(job: Job, model: Sheet, spec: ModelSpec) -> None:
    """Tell each number that is not the published one, and name what else the file says of the structure."""
    for table, fields, part in (
        ("text_decoder", _TEXT_FIELDS, spec.text),
        ("vision_encoder", _VISION_FIELDS, spec.vision),
    ):
        for theirs, ours in fields.items():
            _compare(job, spec, model.get(table, theirs), f"{table}.{theirs}", getattr(part, ours))
    _compare_projector(job, model, spec)
    for table, constants in (
        ("text_decoder", _TEXT_CONSTANTS),
        ("vision_encoder", _VISION_CONSTANTS),
        ("vision_projector", _PROJECTOR_CONSTANTS),
    ):
        for name, allowed in constants.items():
            _compare_constant(job, model, spec, (table, name), allowed)
    for theirs, ours in _TOKEN_FIELDS.items():
        _compare(job, spec, model.get(theirs), theirs, getattr(spec.tokens, ours))
    _compare_echoes(job, model)
    _compare_degrees(job, model)
    flag, length = job.option("seq-length"), model.get("text_decoder", "seq_length")
    if flag and length and length.value is not None and job.whole(flag) not in (None, length.value):
        used = "the script's, where samples were cut"
        job.ledger.contradict("two sequence lengths", [flag, length], used)
    for table in _TABLES:
        _name_the_rest(job, model, spec, table)


def _compare_constant(job: Job, model: Sheet, spec: ModelSpec, path: tuple[str, str], allowed: tuple[Any, ...]) -> None:
    """Tell a constant that is not the published one; the parts of an object share its fate."""
    setting = model.get(*path)
    if setting is None or setting.value is None:
        return
    parts = model.under(*setting.said.split("."))
    if setting.value in allowed:
        job.ledger.published.update((one.where, one.said) for one in (setting, *parts))
        return
    _differ(job, spec, setting, ".".join(path), allowed[0])
    for part in parts:
        job.leave("no_counterpart", part, f"part of {path[-1]}, which is not that of {spec.name}")


def _compare_echoes(job: Job, model: Sheet) -> None:
    """Tell where the script's options of the structure, which were ignored, are not what the model file says."""
    for option, key in _ECHOES.items():
        flag = job.option(option)
        stated = model.get("text_decoder", key) if flag else None
        if flag is None or stated is None or stated.value is None or flag.text == stated.text:
            continue
        number = isinstance(stated.value, int | float) and not isinstance(stated.value, bool)
        if not number or job.number(flag) != stated.value:
            what = "two sizes of the vocabulary" if key == "vocab_size" else f"--{option} is not the model file's {key}"
            job.ledger.contradict(what, [flag, stated], "the model file's, as in the reference stack")


def _compare_degrees(job: Job, model: Sheet) -> None:
    """Tell where the model file's degrees of parallelism are not the script's, which are used."""
    for key, (option, variable) in _DEGREES.items():
        stated = model.get("text_decoder", key)
        said = job.option(option) or job.variable(variable)
        if stated is None or stated.value is None:
            continue
        if said is None:
            # Not even a 1 need be what layout has: pp is as long as the stage lists then.
            job.leave("no_effect", stated, "no script gives this degree as a number: layout has what is taken")
        elif _is_same_number(said, stated):
            job.leave("in_accord", stated, "as layout says")
        else:
            job.ledger.contradict(f"--{option} is not the model file's {key}", [said, stated], "the script's")


def _is_same_number(said: Setting, stated: Setting) -> bool:
    """Tell whether a script's text is a JSON file's value; what is no number is told where it is used."""
    if said.text.strip() == stated.text.strip():
        return True
    try:
        return not isinstance(stated.value, bool) and float(said.text) == stated.value
    except ValueError:
        return False


def _compare_projector(job: Job, model: Sheet, spec: ModelSpec) -> None:
    merged = spec.vision.hidden_size * spec.vision.spatial_merge_size**2
    sizes = {
        "input_size": spec.vision.hidden_size,
        "hidden_size": spec.text.hidden_size,
        "ffn_hidden_size": merged,
        "layernorm_epsilon": spec.vision.rms_norm_eps,
    }
    for theirs, expected in sizes.items():
        _compare(job, spec, model.get("vision_projector", theirs), f"vision_projector.{theirs}", expected)
    untied = model.get("text_decoder", "untie_embeddings_and_output_weights")
    _compare(job, spec, untied, "text_decoder.untie_embeddings_and_output_weights", not spec.text.tie_word_embeddings)
    unread = model.get("vision_encoder", "llm_hidden_size")
    job.leave(
        "no_effect", unread, "the vision encoder never reads it; the merger's size is vision_projector.hidden_size"
    )


def _compare(job: Job, spec: ModelSpec, setting: Setting | None, said: str, expected: Any) -> None:
    if setting is None or setting.value is None:
        return
    wanted = list(expected) if isinstance(expected, tuple) else expected
    if setting.value != wanted or isinstance(setting.value, bool) != isinstance(wanted, bool):
        _differ(job, spec, setting, said, wanted)
    else:
        job.ledger.published.add((setting.where, setting.said))


def _differ(job: Job, spec: ModelSpec, setting: Setting, said: str, wanted: Any) -> None:
    own = Setting(value=wanted, where=spec.name, said=said)
    used = f"model.name = {spec.name}; for a resized model: model.config with its HF config.json"
    name = said.rpartition(".")[2]
    job.ledger.contradict(f"{name} is not that of {spec.name}", [setting, own], used)


def _name_the_rest(job: Job, model: Sheet, spec: ModelSpec, table: str) -> None:
    known = set(model.taken)
    for setting in model.under(table):
        *above, name = setting.said.split(".")
        if (*above, name) in known or name in _ELSEWHERE:
            continue
        if "dropout" in name and setting.value not in (0, None, True, False):
            job.leave("no_counterpart", setting, "qvl trains without dropout, as the published model was")
            continue
        if name == "sequence_parallel" and setting.value:
            job.leave("no_counterpart", setting, NO_COUNTERPART_OPTIONS["sequence-parallel"])
            continue
        if name in NOT_COMPARED:
            job.leave("in_accord", setting, f"not compared: qvl's structure is the published one of {spec.name}")
            continue
        if setting.value not in (None, "", [], {}):
            hint = probably(name, (*_TEXT_FIELDS, *_VISION_FIELDS, *_TEXT_CONSTANTS, *_ELSEWHERE))
            job.leave("unknown", setting, f"qvl's structure is the published one of {spec.name}{hint}")
