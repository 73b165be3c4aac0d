"""A few frames of a video for a page: the right ones, small, and whatever the file is, an answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import qvl_data.media.video_stills as module
from qvl_core.errors import RunError
from qvl_data.media.error import MediaError
from qvl_data.media.video_process import VideoProcesses
from qvl_data.media.video_stills import MAX_STILLS_BYTES, VideoStills, video_stills
from video_files import all_frames, save_video

TIMEOUT_S = 60.0


def stills(path: Path, **others: Any) -> VideoStills:
    return video_stills(path, **{"count": 3, "side": 64, "timeout_s": TIMEOUT_S, **others})


def test_gives_the_first_a_middle_and_the_last_frame(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=41, height=96, width=128, fps=10)
    found = stills(path, side=128)
    assert found.times_s == (0.0, 2.0, 4.0)
    whole = all_frames(path)
    for image, number in zip(found.images, (0, 20, 40), strict=True):
        assert np.array_equal(np.asarray(image), whole[number])


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(96, 128, (64, 48)), (128, 96, (48, 64)), (32, 48, (48, 32)), (16, 1024, (64, 1))]
)
def test_frames_are_small_and_keep_their_shape(
    tmp_path: Path, height: int, width: int, expected: tuple[int, int]
) -> None:
    found = stills(save_video(tmp_path / "x.mp4", frames=4, height=height, width=width))
    assert {image.size for image in found.images} == {expected}
    assert (found.facts.height, found.facts.width) == (height, width)


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (2, 2), (3, 3)])
def test_a_short_video_has_fewer(tmp_path: Path, frames: int, count: int) -> None:
    path = save_video(tmp_path / "x.mp4", frames=frames)
    assert len(stills(path).images) == count


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("text.mp4", "empty.mp4", "folder.mp4", "pipe.mp4", "gone.mp4"):
        with pytest.raises(MediaError):
            stills(tmp_path / name)


def test_a_large_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate(MAX_STILLS_BYTES + 1)
    with pytest.raises(MediaError, match="too many to be opened for a page"):
        stills(path, processes=cast("VideoProcesses", None))


def test_without_the_decoder_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_video(tmp_path / "x.mp4", frames=2)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MediaError, match="PyAV, which decodes videos, is not installed"):
        stills(path)


def test_a_process_that_does_not_start_is_told_in_a_line(tmp_path: Path) -> None:
    class Broken:
        def ask(self, *_: Any, **__: Any) -> None:
            raise RunError("the process that decodes videos does not start: exit code 1\n  fix: look")

    path = save_video(tmp_path / "x.mp4", frames=2)
    with pytest.raises(MediaError, match=r"does not start: exit code 1$"):
        stills(path, processes=cast("VideoProcesses", Broken()))


def test_a_file_that_takes_too_long_is_told_by_the_page_s_limit(tmp_path: Path) -> None:
    program = "import os, sys, time; os.write(1, b'D' + (2).to_bytes(8, 'little') + b'{}'); time.sleep(600)"
    processes = VideoProcesses(command=[sys.executable, "-c", program], limit=1)
    path = save_video(tmp_path / "x.mp4", frames=2)
    with pytest.raises(MediaError, match=r"within 0\.5 s \(for a page\)"):
        stills(path, processes=processes, timeout_s=0.5)
    processes.close()
