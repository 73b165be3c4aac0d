"""Specs from HF configs: every published spelling, and a named problem for everything that is not this model."""

import contextlib
import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from qvl_core.errors import WeightsError
from qvl_core.specs import load_spec, shipped_config_path, shipped_names, spec_from_hf_config, to_hf_config

TEXT_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings", "hidden_act"),
)


def flat(name="qwen2.5-vl-7b"):
    return json.loads(shipped_config_path(name).read_text())


def nested(name="qwen2.5-vl-7b"):
    config = flat(name)
    config["text_config"] = {key: config.pop(key) for key in TEXT_KEYS}
    config["text_config"]["model_type"] = "qwen2_5_vl_text"
    config["vision_config"]["model_type"] = "qwen2_5_vl"
    return config


def newest(name="qwen2.5-vl-7b"):
    """The spelling of transformers 5."""
    config = nested(name)
    text = config["text_config"]
    section = text.pop("rope_scaling")["mrope_section"]
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": section, "rope_theta": text.pop("rope_theta")}
    vision = config["vision_config"]
    vision["model_type"] = "qwen2_5_vl_vision"
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": 10000.0}
    vision["in_channels"] = vision.pop("in_chans")
    return config


def problems_of(config):
    with pytest.raises(WeightsError) as caught:
        spec_from_hf_config(config, where="folder/config.json", name="x")
    assert all(problem.where == "folder/config.json" for problem in caught.value.problems)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("spelling", [flat, nested, newest])
def test_all_spellings_give_the_shipped_spec(name, spelling):
    assert load_spec(spelling(name)) == load_spec(name)


@pytest.mark.parametrize("name", shipped_names())
def test_written_config_gives_the_spec_back(name):
    spec = load_spec(name)
    assert spec_from_hf_config(to_hf_config(spec), where="x", name=name) == spec


def test_nested_keys_win_over_flat_ones():
    config = nested()
    config["hidden_size"] = 17
    assert load_spec(config).text.hidden_size == 3584


@pytest.mark.parametrize("place", ["top", "text_config", "both"])
def test_tie_flag_counts_in_either_place(place):
    config = nested()
    config["tie_word_embeddings"] = place in ("top", "both")
    config["text_config"]["tie_word_embeddings"] = place in ("text_config", "both")
    assert load_spec(config).text.tie_word_embeddings is True


def test_untied_without_any_flag():
    config = nested()
    del config["tie_word_embeddings"]
    assert load_spec(config).text.tie_word_embeddings is False


def test_optional_keys_have_the_defaults_of_the_hf_classes():
    config = flat()
    for key in ("rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings", "image_token_id"):
        del config[key]
    for key in ("tokens_per_second", "in_chans", "patch_size", "window_size", "fullatt_block_indexes"):
        del config["vision_config"][key]
    spec = load_spec(config)
    assert (spec.text.rms_norm_eps, spec.text.rope_theta, spec.text.max_position_embeddings) == (1e-5, 1e6, 32768)
    assert spec.text.mrope_section == (16, 24, 24)
    assert spec.tokens.image == 151655
    assert (spec.vision.tokens_per_second, spec.vision.in_channels, spec.vision.window_size) == (4.0, 3, 112)
    assert spec.vision.full_attention_blocks == (7, 15, 23, 31)


def test_key_value_heads_default_to_the_query_heads():
    config = flat()
    del config["num_key_value_heads"]
    assert load_spec(config).text.num_kv_heads == 28


def changed(changes, spelling=flat):
    config = copy.deepcopy(spelling())
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = config
        for section in sections:
            place = place[section]
        if value is None:
            del place[key]
        else:
            place[key] = value
    return config


@pytest.mark.parametrize(
    ("changes", "key", "part"),
    [
        ({"model_type": "qwen2_vl"}, "model_type", "'qwen2_vl'"),
        ({"model_type": None}, "model_type", "is missing"),
        ({"quantization_config": {"bits": 4}}, "quantization_config", "quantised"),
        ({"auto_map": {"AutoModel": "m.M"}}, "auto_map", "never runs code"),
        ({"hidden_size": None}, "hidden_size", "is missing"),
        ({"num_hidden_layers": "28"}, "num_hidden_layers", "'28'"),
        ({"num_hidden_layers": True}, "num_hidden_layers", "True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers", "is 0"),
        ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers", "has to lie between 1 and 10000"),
        ({"num_attention_heads": 2**20}, "num_attention_heads", "has to lie between 1 and 10000"),
        ({"vocab_size": 2**40}, "vocab_size", "between 1"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps", "above 0"),
        ({"rope_theta": float("inf")}, "rope_theta", "finite"),
        ({"rope_theta": float("nan")}, "rope_theta", "finite"),
        ({"hidden_act": "gelu"}, "hidden_act", "'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window", "not built"),
        ({"layer_types": ["sliding_attention"]}, "layer_types", "full_attention"),
        ({"hidden_size": 3585}, "hidden_size", "3585 does not divide by num_attention_heads = 28"),
        ({"head_dim": 64}, "head_dim", "64 x 28"),
        ({"num_key_value_heads": 5}, "num_key_value_heads", "5 does not divide"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.type", "'yarn'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}}, "rope_scaling.mrope_section", "has 2"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 23]}}, "rope_scaling", "adds up to 63"),
        ({"rope_scaling": []}, "rope_scaling", "an object"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings", "true or false"),
        ({"vision_config": None}, "vision_config", "is missing"),
        ({"vision_config": 3}, "vision_config", "an object"),
        ({"vision_config.depth": None}, "vision_config.depth", "is missing"),
        ({"vision_config.hidden_act": "gelu"}, "vision_config.hidden_act", "'gelu'"),
        ({"vision_config.num_heads": 15}, "vision_config.hidden_size", "1280 does not divide"),
        ({"vision_config.num_heads": 640}, "vision_config.num_heads", "multiple of 4"),
        ({"vision_config.window_size": 27}, "vision_config.window_size", "less than one merged patch of 28"),
        ({"vision_config.fullatt_block_indexes": [-1]}, "vision_config.fullatt_block_indexes", "[-1]"),
        ({"vision_config.out_hidden_size": 2048}, "vision_config.out_hidden_size", "3584"),
        ({"image_token_id": 152064}, "image_token_id", "0 to 152063"),
        ({"image_token_id": 151656}, "video_token_id", "so is image_token_id"),
    ],
)
def test_refuses_a_config_that_is_not_this_model_and_names_the_key(changes, key, part):
    found = problems_of(changed(changes))
    assert key in found, found
    assert part in found[key]


def test_a_pruned_tower_keeps_the_full_attention_blocks_that_it_has():
    spec = load_spec(changed({"vision_config.depth": 9}))
    assert spec.vision.full_attention_blocks == (7,)
    assert load_spec(changed({"vision_config.depth": 3})).vision.full_attention_blocks == ()


def test_a_window_is_counted_in_whole_merged_patches_as_hf_does():
    for pixels in (28, 100, 113):
        assert load_spec(changed({"vision_config.window_size": pixels})).vision.window_size == pixels


def test_accepts_the_neighbours_of_refused_configs():
    spec = load_spec(changed({"vision_config.window_size": 140, "vision_config.fullatt_block_indexes": [31, 7, 7]}))
    assert spec.name == "qwen2.5-vl-custom"
    assert spec.vision.full_attention_blocks == (7, 31)
    assert load_spec(changed({"num_key_value_heads": 7})).text.num_kv_heads == 7


def test_reports_all_problems_at_once():
    found = problems_of(changed({"hidden_size": None, "vocab_size": "x", "vision_config.depth": -2}))
    assert set(found) == {"hidden_size", "vocab_size", "vision_config.depth"}


def test_names_the_nested_place_of_a_problem():
    assert "text_config.hidden_size" in problems_of(changed({"text_config.hidden_size": "x"}, nested))
    found = problems_of(changed({"text_config.rope_parameters.mrope_section": [1, 2, 3]}, newest))
    assert "text_config.rope_parameters" in found


@pytest.mark.parametrize("value", [None, 0, "x", [], {}, True, -1, 1.5, [None], {"a": 1}, 2**70])
@pytest.mark.parametrize("key", sorted({*flat(), *flat()["vision_config"], "text_config", "rope_parameters"}))
def test_any_value_in_any_key_gives_a_spec_or_named_problems(key, value):
    for section in (flat(), flat()["vision_config"]):
        config = flat()
        target = config if section.keys() == config.keys() else config["vision_config"]
        target[key] = value
        with contextlib.suppress(WeightsError):
            load_spec(config)


@pytest.mark.parametrize("name", shipped_names())
def test_reads_what_transformers_writes(name, tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers (no torch)")
    config = transformers.Qwen2_5_VLConfig(**flat(name))
    config.save_pretrained(tmp_path)
    written_by = "transformers5" if int(transformers.__version__.split(".")[0]) >= 5 else "paper"
    expected = replace(load_spec(name), position_rule=written_by)
    assert load_spec(tmp_path) == expected
    assert load_spec(json.loads(json.dumps(config.to_dict()))) == expected
