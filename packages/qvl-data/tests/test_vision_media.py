"""Every medium once, and samples and batches that carry features in place of patches."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import llava, save_image, write_records
from qvl_core.errors import DataError
from qvl_data import batches, prepare, samples, validation_batches
from qvl_data.media.error import MediaError
from qvl_data.vision_media import list_media, with_features
from video_files import save_video


class Numbered:
    """Features that say whose they are: all numbers are the place of the key in the list."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    def read(self, key: str, rows: int) -> Any:
        return np.full((rows, 4), self._keys.index(key), np.float32)

    def slice_seconds(self, key: str) -> Any:
        raise AssertionError


@pytest.fixture
def recipe(tmp_path: Path, make_recipe: Callable[..., Any]) -> Any:
    for number in range(4):
        save_image(tmp_path / f"{number}.png", 60 + 40 * number, 70, seed=number)
    (tmp_path / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    return make_recipe(
        [
            write_records(
                tmp_path / "train.json",
                [
                    llava("<image>\n<image>\nA?", "a", ["0.png", "1.png"]),
                    llava("B?", "b"),
                    llava("<image>\n<image>\n<image>C?", "c", ["copy.png", "2.png", "0.png"]),
                    llava("<image>\nD?", "d", "3.png"),
                ],
            )
        ],
        micro_batch=2,
        global_batch=4,
    )


def test_each_medium_is_listed_once_by_its_content(recipe: Any) -> None:
    data = prepare(recipe)
    media = list_media(data)
    assert len(media) == len(set(media.keys)) == 4
    samples_of = [data.train.where(number) for number in (0, 0, 2, 3)]
    assert [media.where(number) for number in range(4)] == samples_of
    for number in range(4):
        patches = media.load(number).patches
        assert patches.shape == (media.grids[number].prod(), media.patch_dim)
    np.testing.assert_array_equal(
        np.concatenate([media.load(0).patches, media.load(1).patches]), data.train.sample(0).patches
    )


def test_batches_carry_features_and_are_else_the_same(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare(recipe)
    media = list_media(data)
    known = with_features(data, Numbered(media.keys))
    with batches(data, recipe=recipe) as source:
        plain = next(source)
    monkeypatch.setattr(samples, "load_image", None)  # whoever opens an image fails
    with batches(known, recipe=recipe) as source:
        found = next(source)
    for batch, wanted in zip(found, plain, strict=True):
        for name in ("input_ids", "position_ids", "labels", "grids"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(wanted, name))
        assert batch.grid_patches == wanted.grid_patches == len(wanted.patches)
        assert batch.patches.shape == (0, media.patch_dim)
        assert batch.features is not None
        assert batch.features.shape == (wanted.grid_patches // 4, 4)


def test_features_come_in_the_order_of_the_media(recipe: Any) -> None:
    data = prepare(recipe)
    media = list_media(data)
    sample = with_features(data, Numbered(media.keys)).train.sample(2)
    counts = sample.grids.prod(axis=1) // 4
    assert sample.features is not None
    np.testing.assert_array_equal(sample.features[:, 0], np.repeat([1.0, 2.0, 0.0], counts))


def test_a_batch_of_text_alone_has_neither(recipe: Any) -> None:
    data = prepare(recipe)
    sample = with_features(data, Numbered(())).train.sample(1)
    assert sample.features is None
    assert len(sample.patches) == 0


def test_validation_has_them_too(recipe: Any, tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    held = write_records(tmp_path / "held.json", [llava("<image>\nE?", "e", "2.png")])
    both = make_recipe([tmp_path / "train.json"], validation={"path": str(held)})
    data = prepare(both)
    media = list_media(data)
    assert len(media) == 4, "one of training again"
    (batch,) = validation_batches(with_features(data, Numbered(media.keys)), recipe=both)
    assert batch.features is not None
    assert set(batch.features[:, 0]) == {2.0}


def test_an_error_of_the_source_names_the_record(recipe: Any) -> None:
    class Refuses:
        def read(self, key: str, rows: int) -> Any:
            raise MediaError("was bad")

    data = prepare(recipe)
    with pytest.raises(DataError, match=r"train.json.*\n  was bad"):
        with_features(data, Refuses()).train.sample(3)


def test_data_of_text_alone_have_no_media(tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    data = prepare(make_recipe([write_records(tmp_path / "train.json", [llava("A?", "a"), llava("B?", "b")])]))
    media = list_media(data)
    assert len(media) == 0
    assert media.grids.shape == (0, 3)


def test_a_medium_under_two_limits_is_listed_twice_and_read_under_each(
    tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    save_image(tmp_path / "big.png", 220, 220, seed=1)
    records = [llava("<image>\nA?", "a", "big.png"), llava(f"<image>\n{'long ' * 40}?", "b", "big.png")]
    path = write_records(tmp_path / "train.json", records)
    lengths = prepare(make_recipe([path])).train.lengths
    recipe = make_recipe([path], sequence_length=int(lengths.max()) - 10, too_long="shrink")
    data = prepare(recipe)
    media = list_media(data)
    assert len(media) == 2
    for sample in range(2):
        wanted = data.train.sample(sample)
        known = with_features(data, Numbered(media.keys)).train.sample(sample)
        np.testing.assert_array_equal(known.grids, wanted.grids)
        np.testing.assert_array_equal(known.input_ids, wanted.input_ids)
        np.testing.assert_array_equal(media.load(sample).patches, wanted.patches)


class Timed(Numbered):
    """Also says when slices start."""

    def __init__(self, keys: tuple[str, ...], times: Any) -> None:
        super().__init__(keys)
        self._times = times

    def slice_seconds(self, key: str) -> Any:
        return self._times


@pytest.mark.parametrize("is_variable", [False, True])
def test_a_video_has_the_positions_that_it_has_when_it_is_decoded(
    tmp_path: Path, make_recipe: Callable[..., Any], is_variable: bool
) -> None:
    times = [40 * number + (number**2 if is_variable else 0) for number in range(30)]
    save_video(tmp_path / "clip.mkv", frames=30, times=times, clock=Fraction(1, 1000))
    record = {**llava("<video>\nA?", "a"), "video": "clip.mkv"}
    recipe = make_recipe([write_records(tmp_path / "train.json", [record])], global_batch=1)
    data = prepare(recipe)
    media = list_media(data)
    loaded = media.load(0)
    assert media.times.tolist() == [loaded.grid[0] if is_variable else 0]
    known = with_features(data, Timed(media.keys, loaded.slice_seconds))
    with batches(data, recipe=recipe) as plain, batches(known, recipe=recipe) as found:
        (wanted,), (batch,) = next(plain), next(found)
    np.testing.assert_array_equal(batch.position_ids, wanted.position_ids)
    np.testing.assert_array_equal(batch.grids, wanted.grids)
    assert batch.features is not None
    assert len(batch.features) == wanted.grid_patches // 4
