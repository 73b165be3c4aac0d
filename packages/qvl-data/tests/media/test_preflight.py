"""Each media file is checked once and remembered by path, size and time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from data_files import save_image
from qvl_data.media import preflight
from qvl_data.media.preflight import MediaCheck, check_media, remember


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Count how often a file is really read."""
    calls: list[Path] = []
    real = preflight.check_image

    def counting(path: Path) -> object:
        calls.append(path)
        return real(path)

    monkeypatch.setattr(preflight, "check_image", counting)
    return calls


def check_and_remember(paths: list[Path], cache: Path) -> MediaCheck:
    found = check_media(paths, cache_dir=cache)
    remember(found)
    return found


def test_nothing_is_written_before_the_caller_says_so(tmp_path: Path) -> None:
    check_media([save_image(tmp_path / "a.png")], cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_good_and_bad_files_and_progress(tmp_path: Path) -> None:
    good = [save_image(tmp_path / f"{i}.png", 30 + i, 40, seed=i) for i in range(3)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    seen: list[tuple[str, int, int]] = []
    found = check_media([*good, bad, good[0]], cache_dir=None, workers=2, progress=lambda *a: seen.append(a))
    assert {path: facts.height for path, facts in found.facts.items()} == {path: 30 + i for i, path in enumerate(good)}
    assert list(found.errors) == [bad]
    assert seen[-1] == ("checking images", 4, 4)


def test_unchanged_files_are_not_read_again_changed_and_bad_ones_are(tmp_path: Path, counted: list[Path]) -> None:
    first, second = (save_image(tmp_path / f"{i}.png", seed=i) for i in range(2))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    cache = tmp_path / "cache"
    before = check_and_remember([first, second, bad], cache)
    counted.clear()
    again = check_and_remember([first, second, bad], cache)
    assert (again.facts, again.errors) == (before.facts, before.errors)
    assert counted == [bad]
    counted.clear()
    save_image(second, 20, 20, seed=9)
    os.utime(second, ns=(1, 1))
    assert check_and_remember([first, second], cache).facts[second].height == 20
    assert counted == [second]


def test_two_data_sets_of_one_folder_share_the_memory(tmp_path: Path, counted: list[Path]) -> None:
    first, second = (save_image(tmp_path / f"{i}.png", seed=i) for i in range(2))
    for paths in ([first], [second], [first, second]):
        check_and_remember(paths, tmp_path / "cache")
    assert counted == [first, second]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1, "images": [[1]]}', '{"version": 0, "images": []}'])
def test_a_damaged_memory_is_left_alone(tmp_path: Path, content: str, counted: list[Path]) -> None:
    image = save_image(tmp_path / "a.png")
    cache = tmp_path / "cache"
    check_and_remember([image], cache)
    (file,) = cache.iterdir()
    file.write_text(content)
    counted.clear()
    assert image in check_and_remember([image], cache).facts
    assert counted == [image]
    assert json.loads(file.read_text())["images"]


def test_a_memory_that_cannot_be_written_is_said_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = save_image(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    assert image in check_and_remember([image], tmp_path / "file" / "cache").facts
    assert "cannot be" in caplog.text


def test_no_media_is_no_work(tmp_path: Path) -> None:
    found = check_media([], cache_dir=tmp_path / "cache")
    assert not found.facts
    assert not (tmp_path / "cache").exists()
