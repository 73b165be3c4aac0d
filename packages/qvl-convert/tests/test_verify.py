"""`qvl convert verify`: equal whatever the layouts, or the first difference with its place and both values."""

import json

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.safetensors_header import read_header

TENSOR = "model.layers.1.self_attn.k_proj.weight"
SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
ONE = {"BF16": 0x3F80, "F16": 0x3C00, "F32": 0x3F800000}
SIGN = {"BF16": 0x8000, "F16": 0x8000, "F32": 0x80000000}
NAN = {"BF16": 0x7FC1, "F16": 0x7E01, "F32": 0x7FC00001}

# Ties play no part in most of these tests.
untied = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


def test_equal_folders_in_different_layouts(qvl, make, layout):
    found = qvl("verify", make.hf("hf", naming="new", max_shard_bytes=9_000), make.sharded("sharded", layout))
    assert (found.code, found.err) == (0, "")
    size = sum(array.nbytes for array in make.arrays.values())
    assert found.out.startswith(f"equal: {len(make.arrays)} tensors, {size:,} bytes, bit for bit")


@untied
def test_any_two_layouts_are_equal(qvl, make, layout):
    assert qvl("verify", make.sharded("a", layout), make.sharded("b", CUT)).code == 0


@untied
def test_a_folder_is_equal_to_itself(qvl, make):
    path = make.sharded("a", CUT)
    assert qvl("verify", path, path).code == 0


@untied
def test_the_first_difference_is_named_with_place_and_both_values(qvl, make, layout):
    changed = make.arrays[TENSOR].copy()
    changed[5, 7] ^= 1
    changed[6, 0] ^= 1
    later = "model.layers.2.mlp.up_proj.weight"
    left = make.sharded("sharded", layout)
    right = make.hf("hf", changes={TENSOR: changed, later: ~make.arrays[later]})
    found = qvl("verify", left, right)
    assert found.code == 1
    bits = [f"0x{int(array[5, 7]):0{2 * array.itemsize}x}" for array in (make.arrays[TENSOR], changed)]
    assert found.out.startswith(f"different: {TENSOR}: differs first at [5, 7]: ")
    assert all(text in found.out for text in bits)
    report = json.loads(qvl("verify", right, left, "--json").out)
    difference = report["difference"]
    assert (difference["tensor"], difference["place"], report["equal"]) == (TENSOR, [5, 7], False)
    assert difference["left"].endswith(f"({bits[1]})")
    assert difference["right"].endswith(f"({bits[0]})")


@untied
@pytest.mark.parametrize("place", [(0, 0), (31, 31), (17, 3)])
def test_the_place_is_right_at_every_end_and_in_small_blocks(qvl, make, place, monkeypatch):
    monkeypatch.setattr("qvl_core.weights.row_reader.BLOCK_BYTES", 100)
    changed = make.arrays[TENSOR].copy()
    changed[place] ^= 1
    report = json.loads(qvl("verify", make.sharded("a", CUT), make.hf("b", changes={TENSOR: changed}), "--json").out)
    assert report["difference"]["place"] == list(place)


@untied
def test_the_place_in_a_tensor_of_five_dims(qvl, make):
    name = "visual.patch_embed.proj.weight"
    changed = make.arrays[name].copy()
    place = tuple(extent - 1 for extent in changed.shape)
    changed[place] ^= 1
    report = json.loads(qvl("verify", make.hf("a"), make.hf("b", changes={name: changed}), "--json").out)
    assert report["difference"]["place"] == list(place)


@untied
@pytest.mark.parametrize("kind", ["BF16", "F16", "F32"])
def test_values_are_shown_as_numbers(qvl, make, kind):
    name = next(name for name, found in make.kinds.items() if found == kind)
    one, other = make.arrays[name].copy(), make.arrays[name].copy()
    one.reshape(-1)[1] = ONE[kind]
    other.reshape(-1)[1] = ONE[kind] | SIGN[kind]
    found = qvl("verify", make.hf("a", changes={name: one}), make.hf("b", changes={name: other}))
    assert f"1.0 (0x{ONE[kind]:x}) in A, -1.0 (0x{ONE[kind] | SIGN[kind]:x}) in B" in found.out


@untied
def test_signed_zero_counts_as_a_difference_and_equal_nan_does_not(qvl, make):
    name = "model.norm.weight"
    kind = make.kinds[name]
    plus = np.zeros_like(make.arrays[name])
    minus, nan = plus.copy(), plus.copy()
    minus[2] = SIGN[kind]
    nan[:] = NAN[kind]
    assert qvl("verify", make.hf("a", changes={name: plus}), make.hf("b", changes={name: minus})).code == 1
    assert qvl("verify", make.hf("c", changes={name: nan}), make.hf("d", changes={name: nan})).code == 0
    # Of two not-a-numbers with other bits the bits are shown: both print as nan.
    other = nan.copy()
    other[0] += type(other[0])(1)
    found = qvl("verify", make.hf("e", changes={name: nan}), make.hf("f", changes={name: other}))
    assert f"nan (0x{NAN[kind]:x}) in A, nan (0x{NAN[kind] + 1:x}) in B" in found.out


@untied
def test_another_dtype_is_a_difference(qvl, make):
    left = make.hf("a")
    first = next(name for name, kind in make.kinds.items() if kind == "BF16")
    make.kinds = dict.fromkeys(make.kinds, "F32")
    make.arrays = {name: array.astype(np.uint32) for name, array in make.arrays.items()}
    found = qvl("verify", left, make.hf("b"))
    assert (found.code, found.out) == (1, f"different: {first}: is BF16 in A, F32 in B\n")


def test_another_model_is_a_difference(qvl, make, tmp_path):
    other = type(make)(tmp_path / "side", tied=not make.spec.text.tie_word_embeddings)
    other.arrays.update({name: array for name, array in make.arrays.items() if name in other.arrays})
    other.kinds.update({name: kind for name, kind in make.kinds.items() if name in other.kinds})
    found = qvl("verify", make.hf("hf"), other.hf("hf"))
    assert found.code == 1
    assert "lm_head.weight: is only in" in found.out
    assert "text.tie_word_embeddings" in found.err


@untied
def test_configs_that_differ_are_noted_on_stderr(qvl, make):
    left, right = make.hf("a"), make.hf("b")
    config = json.loads((right / "config.json").read_text())
    (right / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    found = qvl("verify", left, right)
    assert found.code == 0
    assert found.err == "note: the configs differ in text.rope_theta: 1000000.0, found 500000.0\n"
    report = json.loads(qvl("verify", left, right, "--json").out)
    assert report["notes"] == ["the configs differ in text.rope_theta: 1000000.0, found 500000.0"]


@untied
def test_the_json_object_has_its_documented_keys(qvl, make):
    found = qvl("verify", make.hf("a"), make.sharded("b", CUT), "--json")
    report = json.loads(found.out)
    assert (found.code, found.err, found.out.count("\n")) == (0, "", 1)
    assert set(report) == {"equal", "tensors", "bytes", "seconds", "difference", "notes"}
    assert (report["equal"], report["difference"], report["notes"]) == (True, None, [])
    assert report["tensors"] == len(make.arrays)
    assert report["bytes"] == sum(array.nbytes for array in make.arrays.values())


@untied
def test_folders_that_cannot_be_read_are_wrong_input(qvl, make, tmp_path):
    hf = make.hf("hf")
    for path in (tmp_path / "absent", make.side):
        for words in ((hf, path), (path, hf)):
            found = qvl("verify", *words)
            assert (found.code, found.out) == (2, "")
            assert str(path) in found.err


def flip(file, tensor):
    entry = read_header(file).tensors[tensor]
    content = bytearray(file.read_bytes())
    content[entry.start] ^= 1
    file.write_bytes(content)


@untied
@pytest.mark.parametrize(
    ("tensor", "home"),
    [(TENSOR, (1, 1)), ("model.norm.weight", (1, 0)), ("model.norm.weight", (1, 1))],
    ids=["part", "first copy", "second copy"],
)
def test_a_damaged_part_is_wrong_input_and_not_a_difference(qvl, make, tensor, home):
    hf, sharded = make.hf("hf"), make.sharded("sharded", CUT)
    flip(sharded / rank_file_name(*home), tensor)
    for words in ((hf, sharded), (sharded, hf)):
        found = qvl("verify", *words)
        assert (found.code, found.out) == (2, "")
        assert f"{rank_file_name(*home)}: {tensor}\n  is damaged" in found.err


def test_optimizer_state_is_compared_where_both_have_it(qvl, make, tmp_path):
    one, two = make.checkpoint("one", SINGLE), make.checkpoint("two", CUT)
    report = json.loads(qvl("verify", one, two, "--json").out)
    assert report["equal"]
    assert report["tensors"] == len(make.arrays) + len(make.moments())
    moments = make.moments()
    moments[f"{TENSOR}.moment2"][3, 2] = 1.5
    other = make.sharded("other", CUT, optimizer=moments, state="{}")
    found = qvl("verify", one, other)
    assert found.code == 1
    assert f"different: {TENSOR}.moment2: differs first at [3, 2]: " in found.out
    assert "1.5 (0x3fc00000) in B" in found.out
    without = qvl("verify", one, make.hf("hf"))
    assert (without.code, without.err) == (
        0,
        "note: only A has optimizer state: its checksums hold, the weights were compared\n",
    )
    file = one / "optimizer-pp000-tt000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for folders in ((one, tmp_path / "hf"), (tmp_path / "hf", one)):
        damaged = qvl("verify", *folders)
        assert damaged.code == 2
        assert str(file) in damaged.err


@untied
def test_damaged_optimizer_state_is_found(qvl, make):
    one, two = make.checkpoint("one", SINGLE), make.checkpoint("two", CUT)
    flip(two / optimizer_file_name(1, 1), f"{TENSOR}.moment1")
    found = qvl("verify", one, two)
    assert found.code == 2
    assert f"{TENSOR}.moment1\n  is damaged" in found.err


@untied
def test_state_of_other_parameters_is_a_difference(qvl, make):
    some = {name: array for name, array in make.moments().items() if not name.startswith(TENSOR)}
    found = qvl("verify", make.checkpoint("one", SINGLE), make.sharded("two", CUT, optimizer=some, state="{}"))
    assert (found.code, found.out) == (1, f"different: {TENSOR}.moment1: is only in A\n")


@untied
def test_a_damaged_state_of_a_checkpoint_is_found(qvl, make):
    path, other = make.checkpoint("a", CUT), make.checkpoint("b", SINGLE)
    assert qvl("verify", path, other).err == ""
    (path / "state.json").write_text('{"step": 8}')
    for pair in ((path, other), (other, path)):
        found = qvl("verify", *pair)
        assert (found.code, found.out) == (2, "")
        assert f"{path / 'state.json'}\n  is damaged" in found.err


@untied
def test_checkpoints_of_different_states_are_equal_with_a_note(qvl, make):
    path = make.checkpoint("a", CUT)
    other = make.sharded("b", SINGLE, optimizer=make.moments(), state='{"step": 8}')
    found = qvl("verify", path, other)
    assert (found.code, found.err) == (0, "note: state.json differs; only tensors are compared\n")
