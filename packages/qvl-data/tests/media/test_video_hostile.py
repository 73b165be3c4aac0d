"""Video files that lie, point elsewhere, are damaged or are no videos: refused with a reason, nothing else opened.

The numbers V1 to V16 are those of the project's list of bad input.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from qvl_data.media.error import MediaError
from qvl_data.media.video import probe_video
from video_files import save_sound, save_video

# Far more than a probe takes and far less than a pipe without a writer blocks.
TIMEOUT_S = 120.0

PLAYLISTS = {
    "V1 concat, sibling": ("x.mp4", "ffconcat version 1.0\nfile sibling.mp4\n"),
    "V2 concat, outside": ("x.mp4", "ffconcat version 1.0\nfile ../outside.mp4\n"),
    "V3 hls, relative": ("x.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsibling.mp4\n#EXT-X-ENDLIST\n"),
    "V4 hls, file:": (
        "x.mp4",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{folder}/sibling.mp4\n#EXT-X-ENDLIST\n",
    ),
    "V5 hls, http:": (
        "x.m3u8",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    ),
    "dash": ("x.mp4", '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>\n'),
    "sdp": ("x.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    "image sequence": ("x%d.png", "\x89PNG"),
    "subtitles": ("x.mp4", "1\n00:00:00,000 --> 00:00:09,000\nhello\n"),
}


def write_playlist(folder: Path, case: str) -> Path:
    name, text = PLAYLISTS[case]
    path = folder / name
    path.write_text(text.format(folder=folder), encoding="latin-1")
    return path


@pytest.mark.parametrize("case", PLAYLISTS)
def test_playlists_are_refused_without_opening_what_they_name(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    # Opening a pipe that nobody writes to would block until the deadline, whose message is another.
    for pipe in (folder / "sibling.mp4", tmp_path / "outside.mp4"):
        os.mkfifo(pipe)
    path = write_playlist(folder, case)
    with pytest.raises(MediaError, match="cannot be opened as a video"):
        probe_video(path, timeout_s=TIMEOUT_S)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: system calls are not watched")
def test_the_decoding_process_opens_the_file_itself_and_no_socket(tmp_path: Path) -> None:
    for name in ("sibling.mp4", "outside.mp4"):
        save_video(tmp_path / name, frames=3)
    paths = [write_playlist(tmp_path, case) for case in PLAYLISTS] + [save_video(tmp_path / "good.mp4", frames=3)]
    program = (
        "import sys; from pathlib import Path\n"
        "from qvl_data.media.error import MediaError\n"
        "from qvl_data.media.video import probe_video\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(probe_video(Path(name), timeout_s=600).frames)\n"
        "    except MediaError: print('refused')\n"
    )
    log = tmp_path / "calls"
    # `x%d.png` and others share a name with an earlier case; each path is asked for once.
    names = [str(path) for path in dict.fromkeys(paths)]
    watch = ("strace", "-f", "-qq", "-o", str(log), "-e", "trace=open,openat,socket,connect")
    done = subprocess.run(
        (*watch, sys.executable, "-c", program, *names), capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout.split() == ["refused"] * (len(names) - 1) + ["3"]
    calls = log.read_text(errors="replace").splitlines()
    assert any("good.mp4" in call for call in calls)
    assert not [call for call in calls if "sibling" in call or "outside" in call]
    assert not [call for call in calls if "socket(" in call or "connect(" in call]


@pytest.mark.parametrize(
    "written", ["http://127.0.0.1:9/x.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:x.mp4"]
)
def test_addresses_and_protocols_are_names_of_files_that_do_not_exist(written: str) -> None:
    with pytest.raises(MediaError, match="there is no such file"):
        probe_video(Path(written), timeout_s=TIMEOUT_S)


def test_a_pipe_a_folder_and_a_device_are_refused_at_once_by_their_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, message in (
        (tmp_path / "pipe.mp4", "is a named pipe, not a regular file"),
        (tmp_path, "is a folder, not a regular file"),
        (Path("/dev/zero"), "is a character device, not a regular file"),
    ):
        with pytest.raises(MediaError, match=message):
            probe_video(path, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"hello", bytes(range(256)) * 20])
def test_what_is_no_video_is_refused_with_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match="it starts with b'" if content else "the file is empty: 0 bytes"):
        probe_video(path, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.mp4", {}),
        ("x.mp4", {"container_options": {"movflags": "faststart"}}),
        ("x.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("x.mkv", {}),
        ("x.webm", {"codec": "libvpx-vp9"}),
        ("x.avi", {"codec": "mpeg4"}),
        ("x.flv", {}),
    ],
)
def test_a_video_that_was_cut_short_is_named(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    path = save_video(tmp_path / name, **options)
    content = path.read_bytes()
    assert probe_video(path, timeout_s=TIMEOUT_S).frames == 40
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(MediaError, match=r"cut short|no video stream|cannot be opened|without a single frame"):
            probe_video(path, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_a_file_with_sound_only_is_named(tmp_path: Path, name: str) -> None:
    path = save_sound(tmp_path / name)
    with pytest.raises(MediaError, match="has no video stream; its streams: audio"):
        probe_video(path, timeout_s=TIMEOUT_S)


def patched(path: Path, mark: bytes, offset: int, value: bytes) -> Path:
    """Write `value` over what lies `offset` bytes behind the start of `mark`."""
    data = bytearray(path.read_bytes())
    start = data.index(mark) + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def test_a_duration_of_zero_comes_from_the_frames(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mkv")
    found = probe_video(patched(path, b"\x44\x89\x88", 3, struct.pack(">d", 0.0)), timeout_s=TIMEOUT_S)
    assert found.duration_s == pytest.approx(40 / 25)
    path = save_video(tmp_path / "x.mp4")
    found = probe_video(patched(patched(path, b"mvhd", 20, b"\0" * 4), b"mdhd", 20, b"\0" * 4), timeout_s=TIMEOUT_S)
    assert found.duration_s == pytest.approx(40 / 25)


def test_a_header_that_claims_years_is_refused(tmp_path: Path) -> None:
    path = patched(save_video(tmp_path / "x.mkv"), b"\x44\x89\x88", 3, struct.pack(">d", 1e12))
    with pytest.raises(MediaError, match="lasts 1,000,000,000 s by its header, more than 172,800"):
        probe_video(path, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20_000, 2_000), "frames of 20000 x 2000 = 40,000,000 pixels by its header, more than 37,748,736"),
        ((100_000, 100_000), "frames of 0 x 0 pixels by its header|cannot be opened as a video"),
    ],
)
def test_a_header_that_claims_huge_frames_is_refused(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    path = patched(save_video(tmp_path / "x.avi", codec="rawvideo", frames=2), b"strf", 12, struct.pack("<II", *size))
    with pytest.raises(MediaError, match=message):
        probe_video(path, timeout_s=TIMEOUT_S)


def test_one_frame_and_no_frame(tmp_path: Path) -> None:
    assert probe_video(save_video(tmp_path / "one.mp4", frames=1), timeout_s=TIMEOUT_S).frames == 1
    with pytest.raises(MediaError):
        probe_video(save_video(tmp_path / "none.mkv", frames=0), timeout_s=TIMEOUT_S)


def test_an_unreadable_file_is_named_with_the_user(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=1)
    path.chmod(0)
    # The superuser may read everything, so the test puts another user on for a moment.
    user = os.geteuid() or 65534
    os.seteuid(user)
    try:
        with pytest.raises(MediaError, match=f"cannot be opened by user {user}: Permission denied"):
            probe_video(path, timeout_s=TIMEOUT_S)
    finally:
        os.seteuid(os.getuid())
