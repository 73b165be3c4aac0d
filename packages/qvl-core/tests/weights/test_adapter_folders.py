"""Folders that hold adapters: manifest, strict reading, and the PEFT folder that is made of one."""

import json
import re
import shutil

import numpy as np
import pytest
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.lora_table import COMPONENTS, Lora, adapter_table
from qvl_core.params import parameter_table
from qvl_core.weights.local_tensors import local_values
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.names import to_new
from qvl_core.weights.peft_writer import CONFIG_FILE, WEIGHTS_FILE, peft_config, target_expression, write_peft_folder
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import read_tensor
from qvl_core.weights.whole_tensors import open_whole_tensors
from sharded_folders import write_sharded

LORA = Lora(
    rank=2, alpha=4.0, dropout=0.1, components=("text", "vision", "merger"),
    targets=("q_proj", "down_proj", "gate_proj", "qkv", "proj", "mlp.0", "mlp.2"),
)  # fmt: skip
CUT = Layout(vision_stages=(2, 2, 0), text_stages=(0, 1, 3), pp=3, tp=2)


@pytest.fixture
def factors(spec):
    random = np.random.default_rng(3)
    return {row.name: random.standard_normal(row.shape, np.float32) for row in adapter_table(spec, LORA)}


@pytest.fixture
def make_adapters(tmp_path, spec, side_files, factors):
    def make(layout=None):
        folder = tmp_path / "adapters"
        folder.mkdir()
        moments = {f"{name}.{kind}": array for name, array in factors.items() for kind in ("moment1", "moment2")}
        write_sharded(folder, spec, layout or Layout.single(spec), factors, moments, lora=LORA)
        shutil.copy(side_files / "config.json", folder)
        return folder

    return make


def edit(folder, change):
    value = json.loads((folder / MANIFEST_NAME).read_text())
    change(value)
    (folder / MANIFEST_NAME).write_text(json.dumps(value))


@pytest.mark.parametrize("layout", [None, CUT], ids=str)
def test_a_folder_of_adapters_opens_and_says_what_they_are(make_adapters, factors, layout):
    folder = open_sharded_folder(make_adapters(layout))
    assert folder.manifest.lora == LORA
    assert list(folder.manifest.tensors) == list(factors)
    assert json.loads((folder.path / MANIFEST_NAME).read_text())["format_version"] == 2


def test_a_folder_of_a_model_is_still_written_in_version_1(make_sharded):
    value = json.loads((make_sharded() / MANIFEST_NAME).read_text())
    assert value["format_version"] == 1
    assert "lora" not in value


def test_adapters_load_in_any_layout(make_adapters, spec, factors):
    source = open_whole_tensors(make_adapters(CUT))
    layout = Layout(vision_stages=(4, 0), text_stages=(1, 3), pp=2, tp=2)
    for pp in range(2):
        for tp in range(2):
            found = dict(local_values(source, layout, pp, tp))
            rows = [row for row in adapter_table(spec, LORA, layout) if pp in row.stages]
            assert list(found) == [row.name for row in rows]
            for row in rows:
                assert (found[row.name] == cut(factors[row.name], row.shard, tp=2, rank=tp)).all()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda v: v.update(format_version=1), "lora"),
        (lambda v: v.update(lora=None), "lora"),
        (lambda v: v["lora"].pop("alpha"), "lora"),
        (lambda v: v["lora"].update(rank=0), "lora.rank"),
        (lambda v: v["lora"].update(rank=2.0), "lora.rank"),
        (lambda v: v["lora"].update(alpha="4"), "lora.alpha"),
        (lambda v: v["lora"].update(dropout=True), "lora.dropout"),
        (lambda v: v["lora"].update(components=["txt"]), "lora.components"),
        (lambda v: v["lora"].update(components=[]), "lora.components"),
        (lambda v: v["lora"].update(targets=[["q_proj"]]), "lora.targets"),
        (lambda v: v["lora"].update(targets=["q_proj"]), "tensors."),
        (lambda v: v["lora"].update(rank=3), "tensors."),
        (lambda v: v.pop("lora"), "tensors."),
    ],
)
def test_damaged_settings_are_refused_by_key(make_adapters, change, key):
    folder = make_adapters()
    edit(folder, change)
    with pytest.raises(WeightsError) as caught:
        open_sharded_folder(folder)
    assert f"{MANIFEST_NAME}: {key}" in str(caught.value)


@pytest.mark.parametrize("layout", [None, CUT], ids=str)
def test_a_peft_folder_has_every_factor_under_pefts_key(make_adapters, factors, tmp_path, layout):
    write_peft_folder(open_whole_tensors(make_adapters(layout)), tmp_path / "peft", base="base/model")
    assert {path.name for path in (tmp_path / "peft").iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    found = read_header(tmp_path / "peft" / WEIGHTS_FILE).tensors
    assert set(found) == {f"base_model.model.{to_new(name)}" for name in factors}
    assert "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight" in found
    for name, array in factors.items():
        assert (read_tensor(found[f"base_model.model.{to_new(name)}"]) == array).all()
    config = json.loads((tmp_path / "peft" / CONFIG_FILE).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 2, 4, 0.1)
    assert config["base_model_name_or_path"] == "base/model"


@pytest.mark.parametrize("components", [("text",), ("vision",), ("merger",), ("vision", "text"), COMPONENTS], ids=str)
def test_the_expression_of_a_peft_folder_matches_the_adapted_modules_and_no_others(spec, components):
    lora = Lora(rank=2, alpha=4.0, dropout=0.0, components=components, targets=LORA.targets)
    expression = re.compile(target_expression(lora))
    for row in parameter_table(spec):
        module = to_new(row.name).removesuffix(".weight")
        assert bool(expression.fullmatch(module)) == lora.adapts(row), row.name


def test_a_broken_alpha_stays_one():
    lora = Lora(rank=2, alpha=4.5, dropout=0.0, components=("text",), targets=("q_proj",))
    assert peft_config(lora, None)["lora_alpha"] == 4.5
