"""Opening adapters: what is refused, and what hostile folders can do."""

import json
import os

import numpy as np
import pytest
from qvl_core.errors import WeightsError
from qvl_core.weights.lora import open_adapter


@pytest.fixture
def good(lab):
    return lab.folder(lab.factors(lab.names("q_proj.weight")))


def refusal(folder):
    with pytest.raises(WeightsError) as caught:
        open_adapter(folder)
    assert all(problem.fix or "regular file" in problem.message for problem in caught.value.problems)
    return str(caught.value)


def reconfigure(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"peft_type": "ADALORA"}, "only LORA"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "lora_B a bias"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "other layers"),
        ({"trainable_token_indices": [1, 2]}, "single rows"),
        ({"target_parameters": ["mlp.weight"]}, "bare parameters"),
        ({"alora_invocation_tokens": [1]}, "Activated LoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"arrow_config": {"top_k": 3}}, "Arrow"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base weights"),
        ({"init_lora_weights": "loftq"}, "changes the base weights"),
        ({"init_lora_weights": ["olora"]}, "changes the base weights"),
        ({"next_years_variant": {"on": True}}, "not known here"),
        ({"target_modules": None}, "names no module"),
        ({"target_modules": []}, "names no module"),
        ({"target_modules": 5}, "list of names"),
        ({"target_modules": [5]}, "list of names"),
        ({"target_modules": ["x" * 1000]}, "list of names"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [1]}, "cannot stand beside"),
        ({"layers_pattern": "layers"}, "needs layers_to_transform"),
        ({"layers_pattern": "(a+)+", "layers_to_transform": 1}, "names are letters"),
        ({"layers_to_transform": [True]}, "layer numbers"),
        ({"modules_to_save": ["(a|a)*b"]}, "names are letters"),
        ({"r": 0}, "whole number"),
        ({"r": True}, "whole number"),
        ({"r": 4.0}, "whole number"),
        ({"r": 10**30}, "whole number"),
        ({"lora_alpha": "8"}, "a number"),
        ({"lora_alpha": 1e300}, "a number"),
        ({"rank_pattern": [1]}, "map patterns"),
        ({"rank_pattern": {"q_proj": "4"}}, "whole number"),
        ({"alpha_pattern": {"q_proj": None}}, "a number"),
        ({"use_rslora": "yes"}, "true or false"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)  # fmt: skip
def test_refuses_what_would_not_be_merged_exactly(good, setting, says):
    message = refusal(reconfigure(good, **setting))
    assert says in message
    assert next(iter(setting)) in message


@pytest.mark.parametrize(
    "setting",
    [
        {"task_type": "CAUSAL_LM", "inference_mode": True, "lora_dropout": 0.1, "peft_version": "0.21.2"},
        {"use_dora": False, "layer_replication": None, "loftq_config": {}, "megatron_core": "megatron.core"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"next_years_variant": None, "another": False},
        {"bias": "none", "lora_bias": False, "rank_pattern": None, "alpha_pattern": {}, "modules_to_save": None},
        {"auto_mapping": {"base_model_class": "Qwen2_5_VLForConditionalGeneration"}, "qalora_group_size": 16},
    ],
    ids=lambda value: next(iter(value)),
)
def test_accepts_settings_that_do_not_change_the_merge(lab, good, setting):
    assert len(lab.transforms(reconfigure(good, **setting))) == 3


def test_all_problems_of_a_configuration_are_reported(good):
    message = refusal(reconfigure(good, use_dora=True, bias="all", r=0))
    assert all(key in message for key in ("use_dora", "bias", ": r"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_refuses_a_value_that_is_not_finite_and_names_the_tensor(lab, value, dtype):
    tensors = lab.factors(lab.names("q_proj.weight"))
    key = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_B.weight"
    tensors[key][3, 2] = value
    message = refusal(lab.folder(tensors, dtype))
    assert f"{key}: 1 of 128" in message


def test_refuses_other_dtypes(lab):
    tensors = lab.factors(lab.names("q_proj.weight"))
    key = next(iter(tensors))
    tensors[key] = np.zeros((4, 32), np.int8)
    assert f"{key} is I8" in refusal(lab.folder(tensors))


def test_identity_changes_with_every_bit(lab):
    tensors = lab.factors(lab.names("q_proj.weight"))
    first = open_adapter(lab.folder(tensors, name="a"))
    assert open_adapter(lab.folder(tensors, name="b")).identity == first.identity
    assert open_adapter(lab.folder(tensors, name="c", lora_alpha=9)).identity != first.identity
    key = next(iter(tensors))
    tensors[key].view(np.uint32)[0, 0] ^= 1
    assert open_adapter(lab.folder(tensors, name="d")).identity != first.identity


def test_the_files_that_were_read_are_listed(good):
    inputs = open_adapter(good).inputs
    assert [one.path.name for one in inputs] == ["adapter_config.json", "adapter_model.safetensors"]
    assert all(one.stamp[1] == one.path.stat().st_size for one in inputs)


def test_refuses_keys_without_pefts_prefix(lab):
    tensors = {key.removeprefix("base_model.model."): a for key, a in lab.factors(lab.names("q_proj.weight")).items()}
    assert "6 keys do not begin with base_model.model." in refusal(lab.folder(tensors))


def test_refuses_two_adapters_in_one_file(lab):
    names = lab.names("q_proj.weight")
    tensors = lab.factors(names[:1], segment=".one") | lab.factors(names[1:], segment=".two")
    assert "more than one adapter: one, two" in refusal(lab.folder(tensors))


def test_refuses_the_same_factor_twice(lab):
    names = lab.names("q_proj.weight")
    assert "more than one adapter" in refusal(
        lab.folder(lab.factors(names) | lab.factors(names[:1], segment=".default"))
    )


def test_refuses_a_mixture_of_spellings(lab):
    names = lab.names("q_proj.weight")
    tensors = lab.factors(names[:1], naming="classic") | lab.factors(names[1:], naming="new")
    assert "2 keys are in the classic spelling" in refusal(lab.folder(tensors))


def test_refuses_a_pickle_and_says_the_way_out(good):
    (good / "adapter_model.safetensors").rename(good / "adapter_model.bin")
    message = refusal(good)
    assert "adapter_model.bin may be a pickle" in message
    assert "safe_serialization=True" in message


@pytest.mark.parametrize("name", ["adapter_model-00001-of-00002.safetensors", "adapter_model.safetensors.index.json"])
def test_refuses_shards_without_following_an_index(good, name):
    (good / "adapter_model.safetensors").unlink()
    (good / name).write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    assert "PEFT writes an adapter into that one file" in refusal(good)


def test_refuses_a_folder_that_is_none(lab, tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "holds no adapter_config.json" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "is this a whole model?" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_or_a_link_to_one_is_refused_without_waiting(good, tmp_path, name):
    (good / name).unlink()
    os.mkfifo(good / name)
    assert "is a named pipe" in refusal(good)
    (good / name).rename(tmp_path / "pipe")
    (good / name).symlink_to(tmp_path / "pipe")
    assert "is a named pipe" in refusal(good)
    (good / name).unlink()
    (good / name).symlink_to(good / name)
    with pytest.raises(WeightsError, match="cannot be opened"):
        open_adapter(good)


def test_links_to_files_are_followed_as_in_a_download_cache(lab, good, tmp_path):
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for file in good.iterdir():
        (cache / file.name).symlink_to(file)
    assert len(lab.transforms(cache)) == 3


def test_refuses_a_huge_configuration(good):
    (good / "adapter_config.json").write_text('{"a": "' + "x" * 5_000_000 + '"}')
    assert "larger than" in refusal(good)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON"), (b"[]", "list, not an object"), (b'{"r": NaN}', "NaN"), (b"\xff{}", "UTF-8"),
        (b'{"r": 1, "r": 2}', "twice"), (b'{"r": ' + b"9" * 5000 + b"}", "not JSON that can be re"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "list", "nan", "utf8", "twice", "digits", "nested"],
)  # fmt: skip
def test_refuses_what_is_no_strict_json(good, text, says):
    (good / "adapter_config.json").write_bytes(text)
    assert says in refusal(good)


def test_a_damaged_weights_file_is_refused(good):
    weights = good / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "truncated" in refusal(good)


def test_every_mutation_of_the_configuration_is_read_or_refused(lab, good):
    path = good / "adapter_config.json"
    text = path.read_bytes()
    random = np.random.default_rng(11)
    outcomes = set()
    for _ in range(300):
        data = bytearray(text)
        for _ in range(random.integers(1, 4)):
            at = random.integers(0, len(data))
            data[at : at + random.integers(0, 3)] = bytes(random.integers(32, 127, random.integers(0, 3)).tolist())
        path.write_bytes(data)
        try:
            lab.transforms(good)
            outcomes.add("read")
        except WeightsError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
