"""Tensors as arrays: exact reading, exact rounding to bfloat16, files that change while they are read."""

import numpy as np
import pytest
from qvl_core.errors import RunError, WeightsError
from qvl_core.weights.raw_bytes import first_difference, pieces
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.safetensors_writer import checksum_of_tensor, write_safetensors
from qvl_core.weights.tensor_io import (
    count_non_finite,
    float32_to_bfloat16,
    raw_to_float32,
    read_raw,
    read_tensor,
    tensor_from_array,
)


@pytest.fixture
def stored(tmp_path):
    def store(array, dtype=None, name="x.safetensors"):
        write_safetensors(tmp_path / name, [tensor_from_array("x", array, dtype)])
        return read_header(tmp_path / name).tensors["x"]

    return store


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64, np.uint8, np.bool_, np.float64])
def test_bits_make_the_round_trip(stored, kind):
    array = np.random.default_rng(1).integers(0, 2**8, (5, 7 * np.dtype(kind).itemsize), np.uint8)
    array = (array % 2 if kind is np.bool_ else array).view(kind)
    found = read_raw(stored(array))
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


def test_every_bfloat16_is_read_exactly(stored):
    bits = np.arange(2**16, dtype=np.uint16)
    values = read_tensor(stored(bits, "BF16"))
    assert np.array_equal(values.view(np.uint32), bits.astype(np.uint32) << 16)


def test_every_float16_is_read_exactly(stored):
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert np.array_equal(read_tensor(stored(values)), values.astype(np.float32), equal_nan=True)


def test_rounding_to_bfloat16_is_to_nearest_ties_to_even():
    low, high = np.float32(1.0), np.float32(1.0078125)  # neighbours in bfloat16
    half = np.float32(1.00390625)
    cases = np.array([low, high, half, np.nextafter(half, low), np.nextafter(half, high), -half], np.float32)
    found = raw_to_float32(float32_to_bfloat16(cases), "BF16")
    assert found.tolist() == [1.0, high, 1.0, 1.0, high, -1.0]
    odd = np.float32(1.01171875)  # half way between 1.0078125 (odd) and 1.015625 (even)
    assert raw_to_float32(float32_to_bfloat16(np.array([odd])), "BF16")[0] == np.float32(1.015625)


def test_rounding_keeps_what_is_not_finite():
    bits = np.array([0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF], np.uint32)
    found = raw_to_float32(float32_to_bfloat16(bits.view(np.float32)), "BF16")
    assert found[0] == np.inf
    assert found[1] == -np.inf
    assert np.isnan(found[2:4]).all()
    assert found[4] == np.inf


def test_every_bfloat16_survives_rounding():
    bits = np.arange(2**16, dtype=np.uint16)
    values = raw_to_float32(bits, "BF16")
    finite = ~np.isnan(values)
    assert np.array_equal(float32_to_bfloat16(values)[finite], bits[finite])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_odd_shapes_make_the_round_trip(stored, shape, dtype):
    array = np.ones(shape, np.float32)
    found = read_tensor(stored(array, dtype))
    assert found.shape == shape
    assert np.array_equal(found, array)


def test_a_tensor_larger_than_one_piece(stored):
    array = np.random.default_rng(2).standard_normal((1300, 2048), np.float32)
    entry = stored(array)
    assert np.array_equal(read_tensor(entry), array)
    assert b"".join(pieces(entry, piece_bytes=1000)) == array.tobytes()


def test_strided_arrays_are_written_in_order(stored):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert np.array_equal(read_tensor(stored(array.T)), array.T)


def test_refuses_to_read_whole_numbers_as_weights(stored):
    with pytest.raises(WeightsError, match="is I64"):
        read_tensor(stored(np.zeros(2, np.int64)))


def test_a_file_that_shrinks_is_an_error_not_a_crash(stored):
    entry = stored(np.zeros(1000, np.float32))
    with entry.file.open("r+b") as file:
        file.truncate(entry.stop - 1)
    for read in (read_raw, checksum_of_tensor, lambda found: list(pieces(found))):
        with pytest.raises(RunError, match="changed while it was read"):
            read(entry)


def test_counts_what_is_not_finite(stored):
    values = np.array([1, np.nan, np.inf, -np.inf, 0, -np.nan, 6e4], np.float32)
    for dtype in ("F32", "F16", "BF16"):
        assert count_non_finite(stored(values, dtype, f"{dtype}.safetensors")) == 4
    assert count_non_finite(stored(np.zeros(3, np.int32), None, "i.safetensors")) == 0


def test_finds_the_first_difference(stored):
    one = np.zeros(10_000, np.uint8)
    other = one.copy()
    other[[7_777, 9_000]] = 1
    left, right = stored(one, None, "a"), stored(other, None, "b")
    assert first_difference(left, right) == 7_777
    assert first_difference(left, left) is None
