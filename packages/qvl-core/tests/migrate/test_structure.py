"""The model file's structure against the published one, number by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from migrated_values import FINETUNE_FILE, Run, made, values


def test_a_resized_model_is_told_number_by_number(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(ffn_hidden_size=9000))
    (row,) = [row for row in run().ledger.contradictions if "ffn_hidden_size" in row.what]
    assert "9000" in row.places[0][1]
    assert "18944" in row.places[1][1]


def test_every_key_of_the_model_file_is_compared_or_named(run: Run, edit) -> None:
    def change(model: dict[str, Any]) -> None:
        model["image_token_id"] = 7
        model["text_decoder"] |= {
            "rope_theta": 10000,
            "hidden_dropout": 0.1,
            "knob_of_tomorrow": 3,
            "rms_norm_eps": 1e-6,
        }
        model["image_encoder"]["vision_encoder"] |= {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 56}

    edit("model_7b.json", change)
    found = run()
    told = {row.what for row in found.ledger.contradictions if "of qwen2.5-vl-7b" in row.what}
    assert told == {f"{name} is not that of qwen2.5-vl-7b" for name in ("image_token_id", "rope_theta", "window_size")}
    assert any(row.said == "text_decoder.hidden_dropout" for row in found.ledger.left)
    (unknown,) = [left for left in found.ledger.left if left.fate == "unknown"]
    assert (unknown.said, unknown.value) == ("text_decoder.knob_of_tomorrow", "3")


def test_a_number_written_as_text_is_told_from_the_number(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(num_layers="28"))
    (row,) = [row for row in run().ledger.contradictions if row.what.startswith("num_layers")]
    assert [text for _, text in row.places] == ['text_decoder.num_layers = "28"', "text_decoder.num_layers = 28"]


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("text_decoder", "normalization", "LayerNorm"),
        ("text_decoder", "activation_func", "gelu"),
        ("text_decoder", "position_embedding_type", "rope"),
        ("text_decoder", "params_dtype", "fp16"),
        ("text_decoder", "untie_embeddings_and_output_weights", False),
        ("vision_encoder", "window_attn_size", 224),
        ("vision_projector", "hidden_size", 2048),
        ("vision_projector", "ffn_hidden_size", 4096),
        ("vision_projector", "normalization", "LayerNorm"),
        ("vision_projector", "layernorm_epsilon", 1e-5),
        ("vision_projector", "activation_func", "silu"),
        ("vision_projector", "num_attention_heads", 16),
        ("text_decoder", "disable_bias_linear", False),
        ("vision_encoder", "post_layer_norm", True),
        ("text_decoder", "rope_scaling", {"type": "yarn", "factor": 4.0}),
    ],
)
def test_a_structure_that_is_not_the_published_one_is_told(run: Run, edit, table: str, key: str, value: object) -> None:
    def apply(model: dict[str, Any]) -> None:
        (model if table == "text_decoder" else model["image_encoder"])[table][key] = value

    edit("model_7b.json", apply)
    (row,) = [row for row in run().ledger.contradictions if row.what == f"{key} is not that of qwen2.5-vl-7b"]
    assert row.places[0][0].startswith("model_7b.json:")


def test_the_published_values_of_the_structure_are_no_contradiction(run: Run, edit) -> None:
    text = {"normalization": "RMSNorm", "rope_scaling": None, "params_dtype": "bf16", "seq_length": 1024}
    edit("model_7b.json", lambda m: m["text_decoder"].update(text, untie_embeddings_and_output_weights=True))
    edit("model_7b.json", lambda m: m["image_encoder"]["vision_projector"].update(hidden_size=3584, input_size=1280))
    assert not any("is not that of" in row.what for row in run().ledger.contradictions)
    edit("model_7b.json", lambda m: m["text_decoder"].update(seq_length=2048))
    assert any(row.what == "two sequence lengths" for row in run().ledger.contradictions)


def test_a_switch_of_a_fused_kernel_is_no_dropout(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(bias_dropout_fusion=True, hidden_dropout=0.1))
    found = run()
    fates = {left.said.rpartition(".")[2]: left.fate for left in found.ledger.left if "dropout" in left.said}
    assert fates == {"bias_dropout_fusion": "in_accord", "hidden_dropout": "no_counterpart"}


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("--num-layers 36", "num_layers"),
        ("--hidden-size 2048", "hidden_size"),
        ("--num-attention-heads 12", "num_attention_heads"),
        ("--vocab-size 151936", "vocab_size"),
        ("--rotary-base 10000", "rope_theta"),
        ("--normalization LayerNorm", "normalization"),
    ],
)
def test_an_ignored_option_that_says_otherwise_is_a_contradiction(
    run: Run, edit, change, option: str, key: str
) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(normalization="RMSNorm"))
    change(FINETUNE_FILE, "--normalization RMSNorm", "")
    change(FINETUNE_FILE, "--vocab-size 152064", option)
    found = run()
    (row,) = [row for row in found.ledger.contradictions if "model file's" in row.used]
    assert [text.partition(" = ")[0] for _, text in row.places] == [option.split()[0], f"text_decoder.{key}"]
    assert {where.partition(":")[0] for where, _ in row.places} == {FINETUNE_FILE, "model_7b.json"}
    assert any(left.said == option.split()[0] and left.fate == "no_effect" for left in found.ledger.left)


def test_an_ignored_option_that_says_the_same_is_none(run: Run, change) -> None:
    same = "--num-layers 28 --rotary-base 1000000 --num-attention-heads 28 --vocab-size 152064"
    change(FINETUNE_FILE, "--vocab-size 152064", same)
    assert not [row for row in run().ledger.contradictions if "model file's" in row.used]


@pytest.mark.parametrize(("value", "told"), [(4, False), (8, True)])
def test_heads_of_keys_and_values_are_known_by_the_hf_name_too(run: Run, edit, value: int, told: bool) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(num_key_value_heads=value))
    found = run()
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []
    assert any(row.what.startswith("num_key_value_heads is not") for row in found.ledger.contradictions) == told


def test_only_what_was_compared_is_said_to_be_as_in_the_published_model(run: Run, edit) -> None:
    recompute = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 32}

    def more(value: dict[str, Any]) -> None:
        value["image_encoder"]["vision_encoder"].update(recompute, spatial_merge_size=2)
        value["text_decoder"].update(recompute, seq_length=1024, tie_word_embeddings=False)

    edit("inference_qwen2_5_vl_7b.json", more)
    left = [left for left in run().ledger.left if left.fate == "in_accord" and left.where.startswith("inference_")]
    why = {one.said: one.why for one in left}
    for name in recompute:
        for part in ("image_encoder.vision_encoder", "text_decoder"):
            assert why[f"{part}.{name}"] == "concerns training: nothing is trained here"
    assert why["text_decoder.seq_length"] == "samples are as long as --seq-length says"
    published = {said.rpartition(".")[2] for said, text in why.items() if text == "as in the published model"}
    assert {"spatial_merge_size", "tie_word_embeddings", "num_query_groups"} <= published


def test_nothing_is_as_in_a_published_model_where_none_is_known(run: Run, stack: Path) -> None:
    for path in list(stack.glob("*7b*")):
        text = path.read_text().replace("Qwen2.5-VL-7B", "Qwen2.5-VL").replace('"num_layers": 28', '"num_layers": 27')
        path.rename(stack / path.name.replace("7b", "small"))
        (stack / path.name.replace("7b", "small")).write_text(text.replace("7b.json", "small.json"))
    found = run()
    assert all(one.problems for one in found.made)
    assert not [left.said for left in found.ledger.left if left.why == "as in the published model"]


def test_names_that_every_model_file_has_are_known(run: Run, edit) -> None:
    text = {"disable_bias_linear": True, "rope_scaling": None, "seq_length": 1024, "kv_channels": 128}
    encoder = {"post_layer_norm": False, "attention_mask_type": "general", "bias_activation_fusion": True}
    projector = {"layernorm_epsilon": 1e-6, "normalization": "RMSNorm", "gated_linear_unit": False, "num_layers": 1}
    projector |= {"num_attention_heads": 1}
    answers = {"tokenizer_type": "PretrainedFromHF", "is_encoder_decoder": False, "use_infer_fa": True}
    answers |= {"sequence_parallel": False, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1}

    def more(value: dict[str, Any]) -> None:
        value["text_decoder"].update(text)
        value["image_encoder"]["vision_encoder"].update(encoder)
        value["image_encoder"]["vision_projector"].update(projector)
        value["patch"] = {"bridge_patch": False}
        if "generation_config" in value:
            value["text_decoder"].update(answers)
            value["generation_config"].update(token_healing=False, num_return_groups=1, image_token_id=151655)

    for name in ("model_7b.json", "inference_qwen2_5_vl_7b.json", "evaluate_qwen2_5_vl_7b.json"):
        edit(name, more)
    found = run().ledger
    assert [left.said for left in found.left if left.fate == "unknown"] == []
    assert not [row for row in found.contradictions if "is not that of" in row.what or "model file's" in row.what]


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "mrope"},
        {"type": "mrope", "rope_type": "mrope"},
        {"type": "mrope", "rope_type": "default"},
        {"type": "default", "rope_type": "default"},
        {"rope_type": "default"},
    ],
)
def test_the_sections_of_hf_are_those_of_the_published_model(run: Run, edit, kind: dict[str, str]) -> None:
    sections = {**kind, "mrope_section": [16, 24, 24]}
    edit("model_7b.json", lambda model: model["text_decoder"].update(rope_scaling=sections))
    found = run().ledger
    assert not [row for row in found.contradictions if "rope_scaling" in row.what]
    parts = {left.said: left.why for left in found.left if ".rope_scaling." in left.said}
    assert parts == {f"text_decoder.rope_scaling.{name}": "as in the published model" for name in sections}
    edit("model_7b.json", lambda model: model["text_decoder"].update(rope_scaling={**sections, "factor": 4.0}))
    (row,) = [row for row in run().ledger.contradictions if "rope_scaling" in row.what]
    assert '"factor": 4.0' in row.places[0][1]


def test_degrees_of_the_answers_file_that_are_not_the_scripts_are_told(run: Run, edit) -> None:
    name = "evaluate_qwen2_5_vl_7b.json"
    edit(name, lambda value: value["text_decoder"].update(pipeline_model_parallel_size=4, sequence_parallel=True))
    found = run()
    (row,) = [row for row in found.ledger.contradictions if "pipeline_model_parallel_size" in row.what]
    assert [where.partition(":")[0] for where, _ in row.places] == ["evaluate_qwen2_5_vl_7b.sh", name]
    assert values(found, "eval")["layout.pp"] == 1
    (left,) = [left for left in found.ledger.left if left.said.endswith("sequence_parallel")]
    assert (left.fate, left.why) == ("no_counterpart", "qvl has no sequence parallelism")


@pytest.mark.parametrize(("table", "fate"), [("text_decoder", "no_counterpart"), ("vision_encoder", "unknown")])
def test_parts_of_another_rope_scaling_are_not_in_accord(run: Run, edit, table: str, fate: str) -> None:
    def apply(model: dict[str, Any]) -> None:
        (model if table == "text_decoder" else model["image_encoder"])[table]["rope_scaling"] = scaling

    scaling = {"type": "yarn", "factor": 4.0}
    edit("model_7b.json", apply)
    parts = [left for left in run().ledger.left if ".rope_scaling." in left.said]
    assert [(left.said.rpartition(".")[2], left.fate) for left in parts] == [("type", fate), ("factor", fate)]


def test_degrees_of_the_answers_file_that_no_script_states_are_not_in_accord(run: Run, edit, change) -> None:
    name, script = "evaluate_qwen2_5_vl_7b.json", "evaluate_qwen2_5_vl_7b.sh"
    change(script, "TP=1\nPP=1\n", "")
    change(script, "--tensor-model-parallel-size $TP --pipeline-model-parallel-size $PP ", "")
    degrees = {"tensor_model_parallel_size": 4, "pipeline_model_parallel_size": 2}
    edit(name, lambda value: value["text_decoder"].update(degrees))
    found = run()
    assert [values(found, "eval")[f"layout.{key}"] for key in ("tp", "pp")] == [1, 4]
    left = [left for left in found.ledger.left if left.said.rpartition(".")[2] in degrees]
    assert [left.fate for left in left] == ["no_effect", "no_effect"]
    assert {left.why for left in left} == {"no script gives this degree as a number: layout has what is taken"}


def test_a_degree_beside_one_that_a_command_makes_is_not_in_accord(run: Run, edit, change) -> None:
    change("evaluate_qwen2_5_vl_7b.sh", "TP=1\n", "TP=$(cat x)\n")
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value["text_decoder"].update(tensor_model_parallel_size=8))
    (left,) = [left for left in run().ledger.left if left.said == "text_decoder.tensor_model_parallel_size"]
    assert left.fate == "no_effect"


@pytest.mark.parametrize(("value", "accord"), [(1, True), (1.0, True), ("1", True), (2.0, False), (True, False)])
def test_degrees_are_compared_as_numbers(run: Run, edit, value: object, accord: bool) -> None:
    name = "evaluate_qwen2_5_vl_7b.json"
    edit(name, lambda model: model["text_decoder"].update(tensor_model_parallel_size=value))
    found = run().ledger
    told = [row for row in found.contradictions if "tensor_model_parallel_size" in row.what]
    left = [left for left in found.left if left.said == "text_decoder.tensor_model_parallel_size"]
    assert ([left.fate for left in left], bool(told)) == ((["in_accord"], False) if accord else ([], True))


def test_an_unreadable_degree_of_the_script_is_told_once(run: Run, edit, change) -> None:
    change("evaluate_qwen2_5_vl_7b.sh", "TP=1\n", "TP=two\n")
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value["text_decoder"].update(tensor_model_parallel_size=2))
    (problem,) = made(run(), "eval").problems
    assert "'two'" in problem.message
