"""An adapter on top of weights while they are loaded: the bits of the merged folder, in any layout, from any format."""

import json
import shutil

import numpy as np
import pytest
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table, base_of
from qvl_core.params import parameter_table
from qvl_core.weights.local_tensors import local_values
from qvl_core.weights.lora import merge_transforms, merged_values, open_adapter, open_any_adapter
from qvl_core.weights.peft_writer import write_peft_folder
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import raw_to_float32
from qvl_core.weights.whole_tensors import open_whole_tensors
from sharded_folders import write_sharded

LORA = Lora(
    rank=3, alpha=5.0, dropout=0.1, components=("vision", "merger", "text"),
    targets=("qkv", "proj", "down_proj", "mlp.0", "mlp.2", "q_proj", "v_proj", "o_proj"),
)  # fmt: skip
SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
LAYOUTS = {
    "single": SINGLE,
    "tp2": Layout(tp=2, vision_stages=(2,), text_stages=(3,)),
    "tp2-pp2": Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 2)),
    "pp3": Layout(pp=3, vision_stages=(2, 0, 0), text_stages=(0, 1, 2)),
}


def values_of_all_ranks(base, adapter, layout):
    """Give the values of every rank: {(pp, tp): {name: array}}."""
    places = [(pp, tp) for pp in range(layout.pp) for tp in range(layout.tp)]
    source = open_whole_tensors(base)
    return {place: dict(merged_values(source, adapter, layout, *place)) for place in places}


def merged_whole(lab, base, folder):
    """Give what `qvl convert merge` makes of every tensor, whole, as float32."""
    tensors = open_whole_tensors(base).tensors
    transforms = merge_transforms(open_adapter(folder), lab.spec, {name: one.dtype for name, one in tensors.items()})
    bits = dict(raw_whole(base).items())
    return {
        name: raw_to_float32(lab.apply(transforms[name], raw, 3) if name in transforms else raw, tensors[name].dtype)
        for name, raw in bits.items()
    }


def raw_whole(base):
    from qvl_core.weights.local_tensors import local_tensors

    return {one.name: one.array for one in local_tensors(open_whole_tensors(base), SINGLE, 0, 0)}


def assert_equal(lab, found, whole, layout):
    table = {row.name: row for row in parameter_table(lab.spec, layout)}
    for (pp, tp), values in found.items():
        assert set(values) == {name for name, row in table.items() if pp in row.stages}
        for name, array in values.items():
            part = cut(whole[name], table[name].shard, tp=layout.tp, rank=tp)
            assert array.tobytes() == np.ascontiguousarray(part).tobytes(), (pp, tp, name)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_peft_adapter_gives_every_rank_the_bits_of_the_merged_folder(lab, layout, dtype):
    names = lab.names("q_proj.weight", "o_proj.weight", "qkv.weight", "down_proj.weight", "lm_head.weight")
    saved = "model.norm.weight"
    tensors = lab.factors(names) | {"base_model.model.model.language_model.norm.weight": lab.normal(*lab.shapes[saved])}
    targets = ["q_proj", "o_proj", "qkv", "down_proj", "lm_head"]
    folder = lab.folder(tensors, target_modules=targets, modules_to_save=["language_model.norm"])
    base = lab.base_folder(dtype)
    adapter = open_any_adapter(folder, lab.spec)
    assert saved in adapter.names
    assert_equal(lab, values_of_all_ranks(base, adapter, layout), merged_whole(lab, base, folder), layout)


def trained(lab, layout, name="step", lora=LORA, revision="of the base"):
    """Write a checkpoint of adapters as a training run does."""
    random = np.random.default_rng(5)
    factors = {row.name: random.standard_normal(row.shape, np.float32) for row in adapter_table(lab.spec, lora)}
    folder = lab.root / name
    folder.mkdir()
    write_sharded(folder, lab.spec, layout, factors, lora=lora, revision=revision)
    return folder


@pytest.mark.parametrize("of", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layout", [LAYOUTS["single"], LAYOUTS["tp2-pp2"]], ids=["into-single", "into-tp2-pp2"])
def test_a_checkpoint_of_adapters_gives_the_bits_of_its_peft_folder(lab, of, layout):
    checkpoint, base, peft = trained(lab, of), lab.base_folder("BF16"), lab.root / "peft"
    write_peft_folder(open_whole_tensors(checkpoint), peft, base="base")
    adapter = open_any_adapter(checkpoint, lab.spec)
    assert adapter.names == {base_of(row.name) for row in adapter_table(lab.spec, LORA)}
    assert adapter.base_revision == "of the base"
    assert_equal(lab, values_of_all_ranks(base, adapter, layout), merged_whole(lab, base, peft), layout)


def test_the_base_may_have_a_layout_of_its_own(lab):
    whole = dict(local_values(open_whole_tensors(lab.base_folder("F32")), SINGLE, 0, 0))
    cut_base = lab.root / "cut"
    cut_base.mkdir()
    shutil.copy(lab.root / "base" / "config.json", cut_base)
    write_sharded(cut_base, lab.spec, LAYOUTS["tp2-pp2"], whole)
    adapter = open_any_adapter(trained(lab, SINGLE), lab.spec)
    expected = values_of_all_ranks(lab.root / "base", adapter, LAYOUTS["tp2"])
    for place, values in values_of_all_ranks(cut_base, adapter, LAYOUTS["tp2"]).items():
        for name, array in values.items():
            assert array.tobytes() == expected[place][name].tobytes()


def test_the_bits_do_not_depend_on_the_blocks_that_threads_take(lab, monkeypatch):
    base, adapter = lab.base_folder("BF16"), open_any_adapter(trained(lab, SINGLE), lab.spec)
    whole = values_of_all_ranks(base, adapter, SINGLE)[0, 0]
    monkeypatch.setattr("qvl_core.weights.lora.any_adapter._BLOCK_BYTES", 100)
    for name, array in values_of_all_ranks(base, adapter, SINGLE)[0, 0].items():
        assert array.tobytes() == whole[name].tobytes()


def test_what_is_not_adapted_is_untouched(lab):
    base, adapter = lab.base_folder("BF16"), open_any_adapter(trained(lab, SINGLE), lab.spec)
    plain = dict(local_values(open_whole_tensors(base), SINGLE, 0, 0))
    for name, array in values_of_all_ranks(base, adapter, SINGLE)[0, 0].items():
        assert (array.tobytes() == plain[name].tobytes()) == (name not in adapter.names)


def test_settings_and_values_are_part_of_the_identity(lab):
    one = open_any_adapter(trained(lab, SINGLE), lab.spec)
    stronger = Lora(**{**LORA.__dict__, "alpha": 6.0})
    other = open_any_adapter(trained(lab, SINGLE, "other", stronger), lab.spec)
    assert one.identity != other.identity
    assert one.identity == open_any_adapter(one.path, lab.spec).identity


def refused(folder, spec):
    with pytest.raises(WeightsError) as caught:
        open_any_adapter(folder, spec)
    return str(caught.value)


def test_refuses_adapters_of_another_model(lab):
    from dataclasses import replace

    other = replace(lab.spec, text=replace(lab.spec.text, intermediate_size=48))
    assert "intermediate_size" in refused(trained(lab, SINGLE), other)
    peft = lab.folder(lab.factors(lab.names("gate_proj.weight")), target_modules=["gate_proj"])
    assert "wrong shape" in refused(peft, other)


def test_refuses_a_whole_model_and_names_the_key_for_it(lab):
    whole = dict(local_values(open_whole_tensors(lab.base_folder("F32")), SINGLE, 0, 0))
    folder = lab.root / "model"
    folder.mkdir()
    write_sharded(folder, lab.spec, SINGLE, whole)
    message = refused(folder, lab.spec)
    assert "a whole model, not adapters" in message
    assert "weights.source" in message
    assert "is this a whole model?" in refused(lab.root / "base", lab.spec)


def test_refuses_the_folder_of_a_run_and_names_what_is_in_it(lab):
    run = lab.root / "run"
    for name in ("step_000010", "step_000020"):
        (run / name).mkdir(parents=True)
    assert "run/step_000020" in refused(run, lab.spec)
    (run / "adapter").mkdir()
    assert "run/adapter" in refused(run, lab.spec)


def test_refuses_a_checkpoint_whose_bytes_are_not_what_was_recorded(lab):
    folder = trained(lab, SINGLE)
    file = next(folder.glob("rank-*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert "checksum" in refused(folder, lab.spec)


def test_refuses_a_missing_folder_and_an_incomplete_one(lab):
    assert "there is no such folder" in refused(lab.root / "none", lab.spec)
    folder = lab.folder(lab.factors(lab.names("q_proj.weight")))
    (folder / "adapter_model.safetensors").unlink()
    assert "holds no adapter_model.safetensors" in refused(folder, lab.spec)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
