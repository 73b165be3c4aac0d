"""The arithmetic of the merge: right, rounded to the nearest, and the same whatever the size of the blocks."""

from fractions import Fraction

import numpy as np
import pytest
from qvl_core.errors import InputChangedError, WeightsError
from qvl_core.weights.lora import merge_report, open_adapter
from qvl_core.weights.lora.product import RightFactor, TileProduct

Q = "model.layers.1.self_attn.q_proj.weight"


def product(b, a, columns=slice(None)):
    return TileProduct(b.shape[0] * a.shape[1])(b, RightFactor(a), columns)


def expected(lab, folder, name, base, scale):
    """W + scale * B @ A in float64, from the file's own values."""
    adapter = open_adapter(folder)
    a, b = adapter.factors_a[name], adapter.factors_b[name]
    left = adapter.read_rows(b, 0, b.shape[0]).astype(np.float64)
    right = adapter.read_rows(a, 0, a.shape[0]).astype(np.float64)
    return base.astype(np.float64) + scale * (left @ right).reshape(base.shape)


@pytest.mark.parametrize("adapter_dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_merges_as_float64_arithmetic_does(lab, dtype, adapter_dtype):
    names = lab.names("q_proj.weight")
    folder = lab.folder(lab.factors(names), adapter_dtype)
    transforms = lab.transforms(folder, dtype)
    assert list(transforms) == names
    # Half a unit in the last place of each dtype, and in float32 three roundings: product, scaling, sum.
    tolerance = {"F32": 2e-6, "BF16": 2**-8, "F16": 2**-11}[dtype]
    for name in names:
        bits = lab.base(name, dtype)
        wanted = expected(lab, folder, name, lab.values_of(bits, dtype), 2.0)
        merged = lab.values_of(lab.apply(transforms[name], bits), dtype)
        assert np.all(np.abs(merged - wanted) <= tolerance * np.maximum(np.abs(wanted), 1.0))


def test_rounds_to_the_nearest_bfloat16_and_ties_to_even(lab):
    # Sums on and just beside the middle between 1 = 0x3f80 and its neighbours, 1 + 2^-7 = 0x3f81 and 1 - 2^-8.
    steps = np.zeros(lab.shapes[Q][1], np.float32)
    steps[:6] = [2**-8, 2**-8 + 2**-20, 2**-8 - 2**-20, -(2**-9), -(2**-9) - 2**-20, -(2**-9) + 2**-20]
    folder = lab.folder(
        {
            "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": steps[None],
            "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight": np.ones((32, 1), np.float32),
        },
        r=1, lora_alpha=1, target_modules=["model.layers.1.self_attn.q_proj"],
    )  # fmt: skip
    transform = lab.transforms(folder, "BF16")[Q]
    ones = np.full(lab.shapes[Q], 0x3F80, np.uint16)
    odd = np.full(lab.shapes[Q], 0x3F81, np.uint16)
    assert [hex(bits) for bits in lab.apply(transform, ones)[0, :6]] == [
        "0x3f80", "0x3f81", "0x3f80", "0x3f80", "0x3f7f", "0x3f80",
    ]  # fmt: skip
    # From an odd neighbour the tie goes away from it, upwards.
    assert [hex(bits) for bits in lab.apply(transform, odd)[0, :3]] == ["0x3f82", "0x3f82", "0x3f81"]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_the_size_of_the_blocks_does_not_show_in_the_result(lab, dtype, monkeypatch):
    names = [*lab.names("down_proj.weight"), "visual.patch_embed.proj.weight"]
    targets = ["down_proj", "patch_embed.proj"]
    folder = lab.folder(lab.factors(names, rank=7), target_modules=targets, r=7)
    for name in names:
        bits = lab.base(name, dtype)
        whole = lab.apply(lab.transforms(folder, dtype)[name], bits)
        for rows, elements, columns in ((1, 16384, 256), (3, 16384, 3), (5, 1, 1), (bits.shape[0], 70, 16)):
            monkeypatch.setattr("qvl_core.weights.lora.merge.TILE_ELEMENTS", elements)
            monkeypatch.setattr("qvl_core.weights.lora.merge.TILE_COLUMNS", columns)
            assert lab.apply(lab.transforms(folder, dtype)[name], bits, rows).tobytes() == whole.tobytes()


def test_the_product_is_the_defined_one_to_the_bit():
    random = np.random.default_rng(5)
    b = random.standard_normal((9, 6)).astype(np.float32)
    a = random.standard_normal((6, 40)).astype(np.float32)
    # Columns that cancel exactly, cancel almost, and whose sum is the middle of two float32.
    b[:, 3:5], a[3, :20], a[4, :20] = 1.0, a[3, :20], -a[3, :20]
    b[0] = [1, 1, 0, 0, 0, 0]
    a[0, :8], a[1, :8] = 1.0, 2.0**-24
    a[1, 4:8] = 2.0**-24 * (1 + 2.0**-23)
    found = product(b, a)
    for row in range(9):
        for column in range(40):
            total = 0.0
            for k in range(6):
                total += float(b[row, k]) * float(a[k, column])
            assert found[row, column] == np.float32(total)
    # Ties go to even, and a little more than a tie goes up.
    assert found[0, 0] == 1.0
    assert found[0, 4] == np.float32(1 + 2.0**-23)


def test_sums_in_another_order_give_the_same_product():
    random = np.random.default_rng(6)
    b, a = random.standard_normal((64, 16)).astype(np.float32), random.standard_normal((16, 512)).astype(np.float32)
    whole = product(b, a)
    for columns in (1, 7, 100):
        parts = [product(b, a, slice(start, start + columns)) for start in range(0, 512, columns)]
        assert np.concatenate(parts, axis=1).tobytes() == whole.tobytes()
    # Three elements against exact arithmetic: the one rounding that is left is half a unit in the last place.
    for row, column in ((0, 0), (31, 200), (63, 511)):
        exact = sum(Fraction(float(b[row, k])) * Fraction(float(a[k, column])) for k in range(16))
        assert abs(Fraction(float(whole[row, column])) - exact) <= abs(exact) * Fraction(1, 2**23)


def test_an_untrained_adapter_changes_no_bit(lab):
    tensors = lab.factors([Q])
    for key in tensors:
        if "lora_B" in key:
            tensors[key][:] = 0
    folder = lab.folder(tensors, target_modules=["layers.1.self_attn.q_proj"])
    transforms = lab.transforms(folder, "BF16")
    bits = lab.random.integers(0, 2**16, lab.shapes[Q]).astype(np.uint16)
    # Among the bits: -0, infinities, and quiet and signalling not-a-numbers.
    bits[0, :6] = [0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0xFFFF]
    assert lab.apply(transforms[Q], bits).tobytes() == bits.tobytes()
    report = merge_report(transforms)
    assert report.unchanged == (Q,)
    assert report.largest.largest == 0.0
    assert report.non_finite == {Q: int(np.count_nonzero((bits & 0x7F80) == 0x7F80))}


def test_the_report_names_the_largest_change_and_what_did_not_change(lab):
    names = lab.names("q_proj.weight")
    tensors = lab.factors(names)
    for key in tensors:
        if "layers.0" in key and "lora_B" in key:
            tensors[key][:] = 0
        if "layers.2" in key and "lora_A" in key:
            tensors[key] *= 100
    folder = lab.folder(tensors)
    transforms = lab.transforms(folder)
    before = {name: lab.base(name) for name in names}
    after = {name: lab.apply(transforms[name], before[name], 5) for name in names}
    report = merge_report(transforms)
    assert [one.name for one in report.tensors] == [one.name for one in report.measured] == names
    assert report.unchanged == (names[0],)
    assert report.largest.name == names[2]
    assert report.largest.largest == np.abs(after[names[2]] - before[names[2]]).max()
    assert [one.changed for one in report.tensors] == [int(np.sum(after[name] != before[name])) for name in names]


def test_a_tensor_that_was_not_merged_here_is_not_measured(lab):
    names = lab.names("q_proj.weight")
    transforms = lab.transforms(lab.folder(lab.factors(names)))
    lab.apply(transforms[names[1]], lab.base(names[1]))
    report = merge_report(transforms)
    assert [one.name for one in report.measured] == [names[1]]
    assert len(report.tensors) == 3


def test_a_tensor_that_is_merged_twice_is_counted_once(lab):
    transform = lab.transforms(lab.folder(lab.factors([Q]), target_modules=["layers.1.self_attn.q_proj"]))[Q]
    bits = lab.base(Q)
    lab.apply(transform, bits)
    first = transform.change()
    lab.apply(transform, bits, 3)
    assert transform.change() == first


@pytest.mark.parametrize(("dtype", "factor"), [("F16", 1e5), ("BF16", 3e38), ("F32", 3e38)])
def test_refuses_a_sum_that_is_too_large_for_the_dtype(lab, dtype, factor):
    tensors = lab.factors([Q])
    for key in tensors:
        if "lora_A" in key:
            tensors[key] = np.where(np.abs(tensors[key]) < 1e-3, 0, np.sign(tensors[key]) * np.float32(factor))
    folder = lab.folder(tensors, target_modules=["layers.1.self_attn.q_proj"], lora_alpha=400)
    with pytest.raises(WeightsError, match=f"too large for {dtype}") as caught:
        lab.apply(lab.transforms(folder, dtype)[Q], lab.base(Q, dtype))
    assert caught.value.problems[0].key == Q


def test_a_sum_just_within_float16_is_kept(lab):
    tensors = {
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": np.full((1, 32), 65504.0, np.float32),
        "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight": np.ones((32, 1), np.float32),
    }
    folder = lab.folder(tensors, r=1, lora_alpha=1, target_modules=["layers.1.self_attn.q_proj"])
    merged = lab.apply(lab.transforms(folder, "F16")[Q], np.full((32, 32), 15.0, np.float16))
    assert np.all(merged == 65504.0)


def test_an_infinity_of_the_base_stays_and_is_counted(lab):
    folder = lab.folder(lab.factors([Q]), target_modules=["layers.1.self_attn.q_proj"])
    transforms = lab.transforms(folder)
    bits = lab.base(Q)
    bits[2, 3], bits[4, 5] = np.inf, np.nan
    merged = lab.apply(transforms[Q], bits)
    assert np.isposinf(merged[2, 3])
    assert np.isnan(merged[4, 5])
    change = transforms[Q].change()
    assert change.non_finite == 2
    assert 0 < change.largest < 100
    assert change.changed == 32 * 32 - 2


def test_modules_to_save_replace_the_bases_tensors(lab):
    names = [*lab.names("", start="visual.merger."), "lm_head.weight"]
    saved = {
        f"base_model.model.{'model.' if name[0] == 'v' else ''}{name}": lab.normal(*lab.shapes[name]) for name in names
    }
    folder = lab.folder({**lab.factors(lab.names("q_proj.weight")), **saved}, modules_to_save=["merger", "lm_head"])
    transforms = lab.transforms(folder, "F32")
    assert [one.name for one in merge_report(transforms).tensors if one.replaced] == names
    for name, array in zip(names, saved.values(), strict=True):
        assert np.array_equal(lab.apply(transforms[name], lab.base(name), 5), array)


def test_a_replacement_that_is_too_large_is_refused_whatever_the_base_holds(lab):
    name = "visual.merger.ln_q.weight"
    saved = {"base_model.model.model.visual.merger.ln_q.weight": np.full(lab.shapes[name], 1e6, np.float32)}
    folder = lab.folder({**lab.factors(lab.names("q_proj.weight")), **saved}, modules_to_save=["ln_q"])
    transform = lab.transforms(folder, "F16")[name]
    for value in (1.0, np.nan):
        with pytest.raises(WeightsError, match="16 elements of these rows are too large"):
            lab.apply(transform, np.full(lab.shapes[name], value, np.float16))


def test_factors_that_cancel_everywhere_are_added_up_without_the_library(lab):
    # No rounding of a sum that cancels is sure: all elements take the slow way, and no more memory for it.
    column = lab.normal(300, 1)
    b = np.concatenate([column, column], axis=1)
    a = lab.normal(1, 400)
    assert not product(b, np.concatenate([a, -a])).any()


def test_a_head_that_peft_saved_with_its_base_is_merged_from_that(lab):
    name = "lm_head.weight"
    own = lab.normal(*lab.shapes[name])
    tensors = {**lab.factors([name]), "base_model.model.lm_head.base_layer.weight": own}
    folder = lab.folder(tensors, target_modules=["lm_head"])
    merged = lab.apply(lab.transforms(folder)[name], lab.base(name), 7)
    assert np.abs(merged - expected(lab, folder, name, own, 2.0)).max() <= 4e-6


def test_a_file_that_changes_after_it_was_opened_is_noticed(lab):
    folder = lab.folder(lab.factors([Q]), target_modules=["layers.1.self_attn.q_proj"])
    transform = lab.transforms(folder)[Q]
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(InputChangedError, match="adapter_model"):
        lab.apply(transform, lab.base(Q))
