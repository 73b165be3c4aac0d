"""Kept vision features: what was written comes back to the bit, and nothing that is not whole ever does."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from qvl_core.feature_store import HEADER_BYTES, DamagedFeaturesError, FeatureStore, Kept, folder_name

KEY, OTHER = "ab" * 32, "cd" * 32
ABOUT = {"weights": "sha256:1", "dtype": "float32", "tp": 1}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(folder=tmp_path / "vision" / folder_name(ABOUT), width=6, dtype="float32")


def features(rows: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 6), np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_was_written_is_read_to_the_bit(tmp_path: Path, dtype: str) -> None:
    store = FeatureStore(folder=tmp_path, width=6, dtype=dtype)
    kind = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[dtype]
    written = np.arange(30).reshape(5, 6).astype(kind)
    store.write(KEY, written)
    found = store.read(KEY, 5).features
    np.testing.assert_array_equal(found, written)
    assert found.dtype == kind
    assert store.path(KEY).stat().st_size == HEADER_BYTES + written.nbytes <= store.disk_bytes(5)


def test_times_are_kept_beside_them(store: FeatureStore) -> None:
    times = np.array([0.0, 1 / 3, 2.5])
    store.write(KEY, features(), times)
    kept = store.read(KEY, 5, 3)
    np.testing.assert_array_equal(kept.times, times)
    np.testing.assert_array_equal(kept.features, features())
    assert isinstance(store.look(KEY, 5), str)
    store.write(KEY, features())
    assert isinstance(store.look(KEY, 5, 3), str)


def test_a_bit_anywhere_in_a_file_counts(store: FeatureStore) -> None:
    store.write(KEY, features(), np.array([1.5]))
    whole = store.path(KEY).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        store.path(KEY).write_bytes(damaged)
        assert store.look(KEY, 5, 1) == "its content does not match its checksum", place
    store.path(KEY).write_bytes(whole)
    assert isinstance(store.look(KEY, 5, 1), Kept)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 119])
def test_a_cut_file_is_noticed(store: FeatureStore, size: int) -> None:
    store.write(KEY, features())
    os.truncate(store.path(KEY), size)
    assert store.look(KEY, 5) == f"has {size:,} bytes, expected {HEADER_BYTES + 120:,}"
    with pytest.raises(DamagedFeaturesError, match="run the same command again"):
        store.read(KEY, 5)


def test_a_file_under_another_name_or_of_another_shape_is_noticed(store: FeatureStore) -> None:
    store.write(KEY, features())
    store.write(OTHER, features(seed=1))
    store.path(OTHER).replace(store.path(KEY))
    assert store.look(KEY, 5) == "its content does not match its checksum"
    assert store.look(OTHER, 5) == "there is no such file"
    store.write(OTHER, features(rows=4))
    assert "expected" in store.look(OTHER, 5)
    half = FeatureStore(folder=store.folder, width=3, dtype="float32")
    store.write(OTHER, features(rows=5))
    assert half.look(OTHER, 10) == "its content does not match its checksum"


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(store: FeatureStore) -> None:
    store.path(KEY).parent.mkdir(parents=True)
    os.mkfifo(store.path(KEY))
    assert "not a regular file" in store.look(KEY, 5)


def test_several_writers_of_one_medium_leave_one_whole_file(store: FeatureStore) -> None:
    wanted = features()
    found: list[object] = []

    def work() -> None:
        for _ in range(30):
            store.write(KEY, wanted)
            found.append(type(store.look(KEY, 5)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Kept] * 120
    assert [path.name for path in store.path(KEY).parent.iterdir()] == [store.path(KEY).name]


def test_open_says_what_the_folder_is_and_removes_what_dead_writers_left(store: FeatureStore) -> None:
    store.open(ABOUT)
    assert json.loads((store.folder / "about.json").read_text()) == ABOUT
    store.write(KEY, features())
    old, young = (store.path(KEY).with_name(f".{name}.tmp-0123") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.open(ABOUT)
    assert not old.exists()
    assert young.exists(), "its writer may be alive"
    assert isinstance(store.look(KEY, 5), Kept)


@pytest.mark.parametrize("change", [{"weights": "sha256:2"}, {"dtype": "bfloat16"}, {"tp": 2}, {"more": 1}])
def test_anything_else_about_the_tower_is_another_folder(change: dict[str, object]) -> None:
    assert folder_name({**ABOUT, **change}) != folder_name(ABOUT)
    assert folder_name(dict(reversed(ABOUT.items()))) == folder_name(ABOUT)
