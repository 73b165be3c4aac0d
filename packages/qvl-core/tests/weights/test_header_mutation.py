"""Damaged and random headers: whatever the bytes, the reader gives a header or a WeightsError."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qvl_core.errors import WeightsError
from qvl_core.weights.safetensors_header import DTYPE_BYTES, read_header

FEW = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

SOUND = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
).encode()
FILE = len(SOUND).to_bytes(8, "little") + SOUND + bytes(range(32))

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPE_BYTES, "F31"]) | JSON_VALUES,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON_VALUES,
        "data_offsets": st.lists(st.integers(-1, 40), max_size=3) | JSON_VALUES,
    }
)


def survives(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        header = read_header(path)
    except WeightsError as caught:
        message = str(caught)
    else:
        check_sound(header, content)
        return
    assert 0 < len(message) < 10_000


def check_sound(header, content: bytes) -> None:
    # What is accepted has to be sound: every byte after the header belongs to exactly one tensor.
    position = 8 + int.from_bytes(content[:8], "little")
    for entry in header.tensors.values():
        assert entry.start == position
        position = entry.stop
    assert position == len(content)


@FEW
@given(data=st.data())
def test_survives_changed_bytes(tmp_path, data):
    content = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    survives(tmp_path / "x", bytes(content))


@FEW
@given(start=st.integers(0, len(FILE)), stop=st.integers(0, len(FILE)), inserted=st.binary(max_size=40))
def test_survives_removed_and_inserted_bytes(tmp_path, start, stop, inserted):
    survives(tmp_path / "x", FILE[:start] + inserted + FILE[max(start, stop) :])


@FEW
@given(header=st.dictionaries(st.text(max_size=10), ENTRIES | JSON_VALUES, max_size=4), data=st.binary(max_size=48))
def test_survives_random_headers(tmp_path, header, data):
    text = json.dumps(header).encode()
    survives(tmp_path / "x", len(text).to_bytes(8, "little") + text + data)


@FEW
@given(content=st.binary(max_size=100))
def test_survives_random_files(tmp_path, content):
    survives(tmp_path / "x", content)
