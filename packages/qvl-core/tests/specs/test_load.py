"""Where specs come from: names, files, folders, mappings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from qvl_core.errors import WeightsError
from qvl_core.specs import (
    load_spec,
    model_differences,
    shipped_config_path,
    shipped_names,
    spec_differences,
    to_hf_config,
)

CHECKPOINT = Path(__file__).parents[4] / "recipes" / "tiny" / "checkpoint"


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_spec_carries_its_name(name):
    assert load_spec(name).name == name


def test_file_folder_and_mapping_give_one_spec(tmp_path):
    config = json.loads(shipped_config_path("qwen2.5-vl-3b").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    wanted = load_spec("qwen2.5-vl-3b")
    assert load_spec(tmp_path) == load_spec(str(tmp_path / "config.json")) == load_spec(config) == wanted


def test_the_name_follows_the_shape_not_the_folder(tmp_path):
    folder = tmp_path / "qwen2.5-vl-72b"
    folder.mkdir()
    config = to_hf_config(load_spec("qwen2.5-vl-7b"))
    (folder / "config.json").write_text(json.dumps(config))
    assert load_spec(folder).name == "qwen2.5-vl-7b"
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 27}))
    assert load_spec(folder).name == "qwen2.5-vl-custom"


def test_context_length_does_not_change_the_name():
    config = to_hf_config(load_spec("qwen2.5-vl-7b"))
    spec = load_spec({**config, "max_position_embeddings": 32768})
    assert (spec.name, spec.text.max_position_embeddings) == ("qwen2.5-vl-7b", 32768)


@pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="the recipes are not beside the package")
def test_tiny_spec_is_that_of_the_shipped_checkpoint():
    assert load_spec(CHECKPOINT) == load_spec("qwen2.5-vl-tiny")


def test_differences_name_each_field():
    lines = spec_differences(load_spec("qwen2.5-vl-7b"), load_spec("qwen2.5-vl-3b"))
    assert "text.num_layers: 28, found 36" in lines
    assert spec_differences(load_spec("qwen2.5-vl-7b"), load_spec("qwen2.5-vl-7b")) == ()


def test_another_context_length_is_a_difference_but_makes_no_other_model():
    config = to_hf_config(load_spec("qwen2.5-vl-7b"))
    wanted, found = load_spec(config), load_spec({**config, "max_position_embeddings": 32768})
    assert spec_differences(wanted, found) == ("text.max_position_embeddings: 128000, found 32768",)
    assert model_differences(wanted, found) == ()
    both = load_spec({**config, "max_position_embeddings": 32768, "rope_theta": 5e5})
    assert model_differences(wanted, both) == ("text.rope_theta: 1000000.0, found 500000.0",)


def refused(value) -> str:
    with pytest.raises(WeightsError) as caught:
        load_spec(value)
    return str(caught.value)


def test_unknown_name_gets_the_closest():
    assert "did you mean 'qwen2.5-vl-7b'" in refused("qwen2.5vl-7b")
    assert "qwen2.5-vl-3b, qwen2.5-vl-7b" in refused("zzz")
    assert "NUL" in refused("a\0b")
    assert "cannot be read" in refused("x" * 300)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"model_type": "a", "model_type": "b"}', "occurs twice"),
        (b'{"rope_theta": NaN}', "NaN"),
        (b"[" * 100_000, "too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b" " * (4 * 1024**2 + 1), "larger than"),
    ],
)
def test_refuses_a_config_file_that_is_not_clean_json(tmp_path, content, part):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    text = refused(path)
    assert part in text
    assert str(path) in text


def test_refuses_folders_and_pipes_in_place_of_a_config(tmp_path):
    assert "no such file" in refused(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    assert "a named pipe" in refused(tmp_path)


def test_specs_need_no_numpy():
    code = "import sys; import qvl_core.specs as s; s.load_spec('qwen2.5-vl-72b'); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
