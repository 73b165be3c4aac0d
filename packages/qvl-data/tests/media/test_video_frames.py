"""Chosen frames equal those of a whole decoding, for many codecs and groups; no more than needed is decoded."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import qvl_data.media.video_frames as video_frames
from qvl_data.media.error import MediaError
from qvl_data.media.video_container import PacketTable, open_container, packet_table
from qvl_data.media.video_frames import decode_frames
from video_files import all_frames, save_video

OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-pyramid=normal:scenecut=0"}
PYRAMID = {"x264-params": "bframes=5:b-pyramid=normal:b-adapt=0:keyint=30:ref=4"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=10"}
SLICED = {"x264-params": "slices=4:keyint=8"}
NO_DELAY = {"tune": "zerolatency"}
QUIET_265 = {"x265-params": "log-level=none:keyint=14:bframes=4"}

CASES = {
    "h264.mp4": {},
    "h264_keys_only.mp4": {"group": 1},
    "h264_two.mp4": {"group": 2, "b_frames": 0},
    "h264_one_group.mp4": {"group": 250},
    "h264_open.mp4": {"options": OPEN_GROUPS},
    "h264_open.mkv": {"options": OPEN_GROUPS},
    "h264_open.ts": {"options": OPEN_GROUPS},
    "h264_pyramid.mp4": {"options": PYRAMID},
    "h264_refresh.mp4": {"options": REFRESH},
    "h264_refresh.ts": {"options": REFRESH},
    "h264_slices.mp4": {"options": SLICED},
    "h264_no_delay.mov": {"options": NO_DELAY},
    "h264.mkv": {},
    "h264.flv": {},
    "h264.ts": {},
    "h264_fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264_ntsc.mkv": {"fps": Fraction(30000, 1001)},
    "h264_variable.mp4": {"times": [n + n * n // 3 for n in range(40)], "clock": Fraction(1, 90)},
    "h264_odd_size.mp4": {"height": 98, "width": 130},
    "h264_one.mp4": {"frames": 1},
    "h264_three.mp4": {"frames": 3},
    "hevc.mp4": {"codec": "libx265", "options": QUIET_265},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mp4": {"codec": "mpeg4", "group": 7},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2.ts": {"codec": "mpeg2video", "group": 9},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16", "cpu-used": "8"}},
    "ffv1.avi": {"codec": "ffv1"},
}


def found_frames(path: Path, wanted: list[int]) -> tuple[dict[int, np.ndarray], PacketTable]:
    frames: dict[int, np.ndarray] = {}
    with path.open("rb") as file:
        table = decode_frames(
            file, wanted, lambda number, frame: frames.update({number: frame.to_ndarray(format="rgb24")})
        )
    return frames, table


@pytest.mark.parametrize("seek_from", [0, 10**6], ids=["seeking", "reading on"])
@pytest.mark.parametrize("name", CASES)
def test_chosen_frames_equal_a_whole_decoding(
    tmp_path: Path, name: str, seek_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_frames, "_SEEK_FROM_PACKETS", seek_from)
    path = save_video(tmp_path / name, **CASES[name])
    expected = all_frames(path)
    count = len(expected)
    rng = np.random.default_rng(count)
    picks = [[0], [count - 1], list(range(count)), list(range(0, count, 2))]
    picks += [sorted(rng.choice(count, min(count, size), replace=False).tolist()) for size in (1, 2, 3, 5, 8) * 2]
    for wanted in picks:
        found, table = found_frames(path, wanted)
        assert list(found) == wanted
        assert len(table.frames) == count
        for number in wanted:
            np.testing.assert_array_equal(found[number], expected[number])


def test_stretches_start_at_the_key_frame_before_and_skip_groups_without_wanted_frames(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=60, group=10, b_frames=0)
    with path.open("rb") as file, open_container(file) as (container, stream):
        table = packet_table(container, stream)
    assert table.keys.tolist() == [0, 10, 20, 30, 40, 50]
    stretches = [
        (one.first, one.last, list(one.wanted.values())) for one in video_frames._stretches(table, [3, 7, 12, 45])
    ]
    assert stretches == [(0, 7, [3, 7]), (10, 12, [12]), (40, 45, [45])]


def test_only_packets_of_the_stretches_reach_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_video(tmp_path / "x.mp4", frames=60, group=10, b_frames=0)
    fed = 0
    real = video_frames._decode_stretch

    def counting(context, table, stretch, feed, emit):  # type: ignore[no-untyped-def]
        nonlocal fed
        fed += stretch.last - stretch.first + 1
        real(context, table, stretch, feed, emit)

    monkeypatch.setattr(video_frames, "_decode_stretch", counting)
    found, _ = found_frames(path, [3, 45])
    assert len(found) == 2
    assert fed == 4 + 6


def test_a_leading_picture_of_an_open_group_is_reached_from_the_group_before() -> None:
    # Order of the file: key 0, then a key shown as 6 whose leading pictures 4 and 5 lean on the group before.
    table = PacketTable(
        pts=np.array([0, 2, 1, 6, 4, 5, 8]),
        keys=np.array([0, 3]),
        frames=np.array([0, 2, 1, 4, 5, 3, 6]),
        tick_s=1.0,
        is_exact=True,
    )
    assert [table.key_before(packet) for packet in (0, 1, 4, 5, 3, 6)] == [0, 0, 0, 0, 3, 3]


def test_frames_without_times_are_found_by_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_video(tmp_path / "x.avi", codec="mpeg4", frames=20)
    expected = all_frames(path)
    real = video_frames.packet_table

    def without_times(container, stream):  # type: ignore[no-untyped-def]
        found = real(container, stream)
        return PacketTable(pts=found.pts, keys=found.keys, frames=found.frames, tick_s=found.tick_s, is_exact=False)

    monkeypatch.setattr(video_frames, "packet_table", without_times)
    found, table = found_frames(path, [0, 7, 19])
    assert np.isnan(table.times_s()).all()
    for number, pixels in found.items():
        np.testing.assert_array_equal(pixels, expected[number])


def test_a_recording_that_starts_inside_a_group_starts_at_its_first_key_frame(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.ts", frames=40, group=10, b_frames=0)
    whole = all_frames(path)
    # Cut the packets of the first three frames off: 188 bytes each, tables first.
    with path.open("rb") as file, open_container(file) as (container, stream):
        starts = [packet.pos for packet in container.demux(stream) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: 2 * 188 + 188] + data[starts[3] :])
    found, table = found_frames(path, [0, 5])
    assert len(table.frames) == 30
    np.testing.assert_array_equal(found[0], whole[10])
    np.testing.assert_array_equal(found[5], whole[15])


def test_refuses_a_frame_behind_the_end(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=5)
    with pytest.raises(MediaError, match="has 5 frames; number 5 is wanted"):
        found_frames(path, [5])
