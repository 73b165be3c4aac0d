"""Checkpoints that hold adapters: exported as PEFT folders that merge, cut anew, compared, refused elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table, factor_names
from qvl_core.params import parameter_table
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.local_tensors import local_values
from qvl_core.weights.lora import merged_values, open_any_adapter
from qvl_core.weights.manifest import FileRecord
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.peft_writer import WEIGHTS_FILE, peft_key
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.safetensors_writer import checksum_of_file
from qvl_core.weights.tensor_io import read_tensor, tensor_from_array
from qvl_core.weights.whole_tensors import open_whole_tensors
from sharded_folders import write_sharded

SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
LORA = Lora(
    rank=2, alpha=3.0, dropout=0.1, components=("vision", "merger", "text"),
    targets=("qkv", "proj", "down_proj", "mlp.0", "mlp.2", "q_proj"),
)  # fmt: skip

untied = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


class Adapters:
    """Writes checkpoints of the same adapters in any layout."""

    def __init__(self, make) -> None:
        self.make = make
        random = np.random.default_rng(11)
        rows = adapter_table(make.spec, LORA)
        self.factors = {row.name: random.standard_normal(row.shape, np.float32) for row in rows}
        self.moments = {
            f"{name}.{kind}": random.standard_normal(array.shape, np.float32)
            for name, array in self.factors.items()
            for kind in ("moment1", "moment2")
        }

    def checkpoint(self, name, layout, lora=LORA) -> Path:
        folder = self.make.root / name
        folder.mkdir()
        for file in self.make.side.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        state = folder / "state.json"
        state.write_text('{"step": 7}')
        others = {"state.json": FileRecord(size=state.stat().st_size, checksum=checksum_of_file(state))}
        write_sharded(folder, self.make.spec, layout, self.factors, self.moments, other_files=others, lora=lora)
        return folder


@pytest.fixture
def adapters(make):
    return Adapters(make)


@untied
@pytest.mark.parametrize("layout", [SINGLE, CUT], ids=["single", "cut"])
def test_export_writes_a_peft_folder_that_merges(qvl, make, adapters, layout, tmp_path):
    random = np.random.default_rng(2)
    base = {row.name: random.standard_normal(row.shape, np.float32) for row in parameter_table(make.spec)}
    write_hf_folder([tensor_from_array(*item) for item in base.items()], make.side, tmp_path / "base")
    found = qvl("export", "--sharded", adapters.checkpoint("step", layout), "--out", tmp_path / "adapter")
    assert (found.code, found.err) == (0, "")
    saved = read_header(tmp_path / "adapter" / WEIGHTS_FILE).tensors
    assert {key: read_tensor(entry).tobytes() for key, entry in saved.items()} == {
        peft_key(name): array.tobytes() for name, array in adapters.factors.items()
    }
    paths = ("--base", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "merged")
    found = qvl("merge", *paths)
    assert (found.code, found.err) == (0, "")
    merged = open_hf_folder(tmp_path / "merged").tensors
    for row in parameter_table(make.spec):
        wanted = base[row.name].astype(np.float64)
        if LORA.adapts(row):
            a, b = (adapters.factors[name].astype(np.float64) for name in factor_names(row.name))
            wanted = wanted + 1.5 * b @ a
        # fp32: the sum of two products is rounded once.
        np.testing.assert_allclose(read_tensor(merged[row.name]), wanted, rtol=1e-6, atol=1e-6)
    # What loads the base with the adapter on top has these bits, in any layout.
    opened = open_whole_tensors(tmp_path / "base")
    for folder in (tmp_path / "step", tmp_path / "adapter"):
        adapter = open_any_adapter(folder, make.spec)
        for pp, tp in ((0, 0), (0, 1), (1, 0), (1, 1)):
            wanted = dict(local_values(open_whole_tensors(tmp_path / "merged"), CUT, pp, tp))
            loaded = dict(merged_values(opened, adapter, CUT, pp, tp))
            assert {name: one.tobytes() for name, one in loaded.items()} == {
                name: one.tobytes() for name, one in wanted.items()
            }


@untied
def test_the_base_is_named_where_it_is_given(qvl, make, adapters, tmp_path):
    step = adapters.checkpoint("step", SINGLE)
    assert qvl("export", "--sharded", step, "--hf-files", make.side, "--out", tmp_path / "named").code == 0
    assert qvl("export", "--sharded", step, "--out", tmp_path / "plain").code == 0
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("named", "plain")]
    assert [config["base_model_name_or_path"] for config in configs] == [str(make.side), None]


@untied
def test_reshard_cuts_factors_and_their_optimizer_state_and_verify_agrees(qvl, adapters, flags_of, tmp_path):
    one, other = adapters.checkpoint("one", SINGLE), adapters.checkpoint("other", CUT)
    assert qvl("reshard", "--sharded", one, "--out", tmp_path / "cut", *flags_of(CUT)).code == 0
    manifest = read_manifest(tmp_path / "cut")
    assert (manifest.lora, manifest.layout, manifest.has_optimizer) == (LORA, CUT, True)
    for path in (*other.glob("*.safetensors"), other / "manifest.json"):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
    assert qvl("verify", one, tmp_path / "cut").code == 0
    adapters.factors[next(iter(adapters.factors))][0, 0] += 1
    assert qvl("verify", one, adapters.checkpoint("changed", CUT)).code == 1


@untied
def test_verify_tells_that_equal_factors_are_scaled_differently(qvl, adapters):
    other = Lora(**{**LORA.__dict__, "alpha": 4.0})
    found = qvl("verify", adapters.checkpoint("one", SINGLE), adapters.checkpoint("other", SINGLE, other))
    assert found.code == 0
    assert "settings differ" in found.err


@untied
def test_a_mindspeed_folder_is_not_made_of_adapters(qvl, adapters, tmp_path):
    found = qvl("export", "--sharded", adapters.checkpoint("step", SINGLE), "--mindspeed", tmp_path / "out")
    assert found.code == 2
    assert "holds adapters" in found.err
    assert "qvl convert export --sharded" in found.err
    assert not (tmp_path / "out").exists()


@untied
def test_the_form_of_an_hf_folder_has_no_place_for_adapters(qvl, adapters, tmp_path):
    step = adapters.checkpoint("step", SINGLE)
    found = qvl("export", "--sharded", step, "--out", tmp_path / "out", "--naming", "new")
    assert found.code == 2
    assert "--naming" in found.err
    assert "PEFT has its own names" in found.err
