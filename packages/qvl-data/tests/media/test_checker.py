"""Each file is looked at once, with what earlier runs found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import save_image
from qvl_data.media import checker
from qvl_data.media.checker import MediaChecker, MissingMediaError
from qvl_data.media.error import MediaError
from qvl_data.media.memory import Known


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """List the files that are really read, and whether they are decoded."""
    calls: list[tuple[str, bool]] = []
    real = checker.check_image

    def counting(path: Path, *, decode: bool) -> object:
        calls.append((path.name, decode))
        return real(path, decode=decode)

    monkeypatch.setattr(checker, "check_image", counting)
    return calls


def test_a_file_is_read_once_also_when_it_is_broken(tmp_path: Path, looked_at: list[tuple[str, bool]]) -> None:
    good = save_image(tmp_path / "good.png", 30, 40)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    media = MediaChecker(decode=True, video_timeout_s=300)
    for _ in range(3):
        found = media.check("image", "as written", good)
        assert (found.facts.height, found.written, found.size) == (30, "as written", good.stat().st_size)
        with pytest.raises(MediaError, match="is not a JPEG"):
            media.check("image", "bad.png", bad)
    assert looked_at == [("good.png", True), ("bad.png", True)]


def test_what_is_remembered_is_not_read_again_unless_more_is_asked(
    tmp_path: Path, looked_at: list[tuple[str, bool]]
) -> None:
    path = save_image(tmp_path / "a.png")
    found = MediaChecker(decode=False, video_timeout_s=300).check("image", "a.png", path)
    memory = {(str(path), found.size, found.mtime_ns): Known(facts=found.facts, decoded=False)}
    looked_at.clear()
    for decode, reads in ((False, []), (True, [("a.png", True)])):
        media = MediaChecker(decode=decode, video_timeout_s=300, memory=memory)
        assert media.check("image", "a.png", path).facts == found.facts
        assert looked_at == reads


def test_a_changed_file_is_read_again(tmp_path: Path, looked_at: list[tuple[str, bool]]) -> None:
    path = save_image(tmp_path / "a.png")
    found = MediaChecker(decode=True, video_timeout_s=300).check("image", "a.png", path)
    memory = {(str(path), found.size, found.mtime_ns): Known(facts=found.facts, decoded=True)}
    save_image(path, 90, 20)
    media = MediaChecker(decode=True, video_timeout_s=300, memory=memory)
    assert media.check("image", "a.png", path).facts.height == 90


def test_a_missing_file_is_told_from_a_broken_one(tmp_path: Path) -> None:
    media = MediaChecker(decode=True, video_timeout_s=300)
    with pytest.raises(MissingMediaError, match="no such file"):
        media.check("image", "a.png", tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingMediaError):
        media.check("image", "a.png", tmp_path / "file" / "a.png")


def test_an_image_is_no_video_whatever_is_remembered(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png")
    found = MediaChecker(decode=True, video_timeout_s=300).check("image", "a.png", path)
    memory = {(str(path), found.size, found.mtime_ns): Known(facts=found.facts, decoded=True)}
    with pytest.raises(MediaError):
        MediaChecker(decode=True, video_timeout_s=300, memory=memory).check("video", "a.png", path)
