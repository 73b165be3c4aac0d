"""Changed manifests and indexes: whatever stands in them, the folder opens or a WeightsError is raised."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import WeightsError
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.hf_writer import INDEX_FILE
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.sharded_folder import open_sharded_folder

FEW = settings(max_examples=100, deadline=None)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(2**31, 2**70)
    | st.floats()
    | st.sampled_from(["", "x", "../x", "a\0b", "rank-pp000-tt000.safetensors", "F32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def change(value, data):
    """Walk down a random path and replace, remove or add what is there."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys)) if keys else None
        inner = place[key] if key is not None else None
        if isinstance(inner, (dict, list)) and inner and data.draw(st.integers(0, 3)):
            place = inner
            continue
        what = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "add" and isinstance(place, dict):
            place[data.draw(st.text(max_size=5))] = data.draw(VALUES)
        elif key is not None and what == "remove":
            del place[key]
        elif key is not None:
            place[key] = data.draw(VALUES)
        return value


def survives(open_folder, path) -> None:
    try:
        open_folder(path)
    except WeightsError as error:
        message = str(error)
    else:
        return
    assert 0 < len(message) < 20_000


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_survives_changed_manifests(make_sharded, kind):
    state = {"model.norm.weight.moment1": np.zeros(64, np.float32)}
    folder = make_sharded(optimizer=state if kind == "checkpoint" else None)
    sound = json.loads((folder / MANIFEST_NAME).read_text())

    @FEW
    @given(data=st.data())
    def check(data):
        (folder / MANIFEST_NAME).write_text(json.dumps(change(sound, data)))
        survives(open_sharded_folder, folder)

    check()


def test_survives_changed_indexes(make_hf):
    folder = make_hf(max_shard_bytes=300_000)
    sound = json.loads((folder / INDEX_FILE).read_text())

    @FEW
    @given(data=st.data())
    def check(data):
        (folder / INDEX_FILE).write_text(json.dumps(change(sound, data)))
        survives(open_hf_folder, folder)

    check()
