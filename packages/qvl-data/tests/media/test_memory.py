"""What was found out about media is kept by path, size and time, and a damaged memory costs time only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_files import save_image
from qvl_data.media.checker import MediaChecker
from qvl_data.media.facts import MediaFile, facts_from_row, facts_to_row
from qvl_data.media.images import ImageFacts
from qvl_data.media.memory import memory_file, read_memory, remember
from qvl_data.media.video_facts import VideoFacts

VIDEO = VideoFacts(
    height=48, width=64, frames=9, fps=29.97, is_variable=True, duration_s=0.3, digest="cd" * 32, is_counted=True
)


def checked(path: Path, *, decode: bool = True) -> MediaFile:
    return MediaChecker(decode=decode, video_timeout_s=300).check("image", path.name, path)


def video_file(path: Path) -> MediaFile:
    return MediaFile(kind="video", written=path.name, path=path, facts=VIDEO, size=5, mtime_ns=6)


@pytest.mark.parametrize("facts", [ImageFacts(height=3, width=4, digest="ab" * 32), VIDEO])
def test_facts_come_back_from_json(facts: ImageFacts | VideoFacts) -> None:
    assert facts_from_row(json.loads(json.dumps(facts_to_row(facts)))) == facts


@pytest.mark.parametrize("row", [["audio", 1], ["image", 1, 2], ["video", 1, 2, "x"]])
def test_refuses_rows_that_are_no_facts(row: list[object]) -> None:
    with pytest.raises(ValueError, match="not the facts"):
        facts_from_row(row)


def test_remembers_images_and_videos(tmp_path: Path) -> None:
    image = checked(save_image(tmp_path / "a.png", 30, 40))
    file = memory_file(tmp_path / "cache", [tmp_path])
    remember(file, [image, video_file(tmp_path / "v.mp4")], decoded=False)
    known = read_memory(file)
    assert known[str(image.path), image.size, image.mtime_ns].facts == image.facts
    assert [one.decoded for one in known.values()] == [False, True]


def test_what_was_decoded_is_not_forgotten_by_a_look_at_headers(tmp_path: Path) -> None:
    image = checked(save_image(tmp_path / "a.png"))
    file = memory_file(tmp_path / "cache", [tmp_path])
    for decoded in (True, False):
        remember(file, [image], decoded=decoded)
        assert [one.decoded for one in read_memory(file).values()] == [True]


def test_facts_of_an_older_version_of_a_file_give_way_and_those_of_others_stay(tmp_path: Path) -> None:
    first, second = (save_image(tmp_path / f"{name}.png") for name in "ab")
    file = memory_file(tmp_path / "cache", [tmp_path])
    remember(file, [checked(first), checked(second)], decoded=True)
    save_image(second, 90, 20)
    remember(file, [checked(second)], decoded=True)
    assert sorted((Path(path).name, one.facts.height) for (path, _, _), one in read_memory(file).items()) == [
        ("a.png", 60),
        ("b.png", 90),
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2, "media": [[1]]}', '{"version": 1, "media": []}'])
def test_a_damaged_or_older_memory_is_left_alone(tmp_path: Path, content: str) -> None:
    file = memory_file(tmp_path, [tmp_path])
    file.write_text(content)
    assert read_memory(file) == {}
    remember(file, [checked(save_image(tmp_path / "a.png"))], decoded=True)
    assert len(read_memory(file)) == 1


def test_a_memory_that_cannot_be_written_is_said_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    image = checked(save_image(tmp_path / "a.png"))
    remember(memory_file(tmp_path / "file" / "cache", [tmp_path]), [image], decoded=True)
    assert "cannot be written" in caplog.text


def test_data_sets_of_other_folders_have_other_memories(tmp_path: Path) -> None:
    assert memory_file(tmp_path, [Path("a"), Path("b")]) == memory_file(tmp_path, [Path("b"), Path("a"), Path("a")])
    assert memory_file(tmp_path, [Path("a")]) != memory_file(tmp_path, [Path("b")])
