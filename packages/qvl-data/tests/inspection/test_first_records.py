"""Records for a page: the first ones and one with a video, bounded in bytes and in time; what has changed is told."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import qvl_data.inspection.first_records as module
from PIL import Image
from qvl_data.inspection.first_records import FirstRecords
from qvl_data.inspection.picture_room import PictureRoom
from qvl_data.inspection.report import ExampleSample, Thumbnail
from video_files import save_video

LARGE = 10_000_000


def write(folder: Path, media: Sequence[dict[str, str]]) -> Path:
    """Write a record for each of these: `{"image": name}`, `{"video": name}` or nothing."""
    records = []
    for number, one in enumerate(media):
        marks = "".join(f"<{kind}>" for kind in one)
        turns = [{"from": "human", "value": f"{marks}Question {number}?"}, {"from": "gpt", "value": "yes"}]
        records.append({**one, "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records), encoding="utf-8")
    return folder / "train.json"


def reader(folder: Path, *, room: int = LARGE, **others: Any) -> FirstRecords:
    return FirstRecords(folder, room=PictureRoom(room), files=others.pop("files", {}), **others)


def read(found: FirstRecords, *, most: int = 2) -> list[ExampleSample]:
    return list(found.read([{"path": "train.json", "format": "llava"}], most=most))


def questions(examples: Sequence[ExampleSample]) -> list[str]:
    return [example.turns[0][1].rpartition("]")[2] for example in examples]


def test_a_record_with_a_video_is_shown_too_where_the_first_ones_have_none(tmp_path: Path) -> None:
    save_video(tmp_path / "x.mp4", frames=11, fps=10)
    write(tmp_path, [*[{}] * 5, {"video": "x.mp4"}, {"video": "x.mp4"}])
    found = read(reader(tmp_path))
    assert questions(found) == ["Question 0?", "Question 1?", "Question 5?"]
    *frames, name = found[-1].thumbnails
    assert [frame.caption for frame in frames] == ["0.0 s", "0.5 s", "1.0 s"]
    assert all(frame.uri.startswith("data:image/") for frame in frames)
    assert name == Thumbnail(caption="x.mp4, 128 × 96, 11 frames")


def test_no_more_are_shown_where_the_first_ones_have_one(tmp_path: Path) -> None:
    save_video(tmp_path / "x.mp4", frames=2)
    write(tmp_path, [{"video": "x.mp4"}, *[{}] * 5, {"video": "x.mp4"}])
    assert questions(read(reader(tmp_path))) == ["Question 0?", "Question 1?"]


def test_a_video_that_is_far_behind_is_not_looked_for(tmp_path: Path) -> None:
    write(tmp_path, [*[{}] * 60, {"video": "x.mp4"}])
    assert len(read(reader(tmp_path))) == 2


def test_media_that_are_gone_or_none_are_told_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_text("no video")
    (tmp_path / "no.png").write_text("no picture")
    write(tmp_path, [{"video": "gone.mp4"}, {"video": "no.mp4"}, {"image": "gone.png"}, {"image": "no.png"}])
    made = [one for example in read(reader(tmp_path), most=4) for one in example.thumbnails]
    assert [one.caption for one in made] == ["gone.mp4", "no.mp4", "gone.png", "no.png"]
    assert made[0].error == "does not exist"
    assert all(one.error and not one.uri for one in made)


def test_files_of_records_that_have_changed_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, [{}])
    same = reader(tmp_path, files={"train.json": hashlib.sha256(path.read_bytes()).hexdigest()})
    assert (len(read(same)), same.changed) == (1, [])
    other = reader(tmp_path, files={"train.json": "0" * 64})
    assert (len(read(other)), other.changed) == (1, ["train.json"])


def test_media_that_are_newer_than_the_run_are_told(tmp_path: Path) -> None:
    save_video(tmp_path / "x.mp4", frames=1)
    for name in ("old.png", "new.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    for name, moment in (("x.mp4", 2000), ("old.png", 1000), ("new.png", 2000)):
        os.utime(tmp_path / name, (moment, moment))
    write(tmp_path, [{"image": "old.png"}, {"image": "new.png"}, {"video": "x.mp4"}])
    captions = [one.thumbnails[-1].caption for one in read(reader(tmp_path, since=1500.0), most=3)]
    assert captions == [
        "old.png",
        "new.png; the file is newer than the run",
        "x.mp4, 128 × 96, 1 frame; the file is newer than the run",
    ]


def test_a_full_page_leaves_pictures_out_and_says_so(tmp_path: Path) -> None:
    for number in range(6):
        Image.effect_noise((128, 128), 90).save(tmp_path / f"{number}.png")
    write(tmp_path, [{"image": f"{number}.png"} for number in range(6)])
    made = [one for example in read(reader(tmp_path, room=20_000), most=6) for one in example.thumbnails]
    shown = [one for one in made if one.uri]
    assert 0 < len(shown) < 6
    assert sum(len(one.uri) for one in shown) <= 20_000
    assert {one.error for one in made if not one.uri} == {"left out: the page is full"}


def test_videos_together_take_no_longer_than_a_page_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_video(tmp_path / "x.mp4", frames=1)
    write(tmp_path, [{"video": "x.mp4"}] * 3)
    clock = iter(range(0, 1000, 15))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    limits: list[float] = []

    def slow(path: Path, *, timeout_s: float, **_: Any) -> Any:
        limits.append(timeout_s)
        raise module.MediaError("was not opened and decoded in time")

    monkeypatch.setattr(module, "video_stills", slow)
    made = [example.thumbnails[0] for example in read(reader(tmp_path), most=3)]
    assert limits == [10.0, 5.0]
    assert made[-1].error == "is not decoded: the videos before it took all the time that a page has"
