"""Decoding processes: killed at the deadline, replaced when they die, gone when their parent is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qvl_core.errors import RunError
from qvl_data.media.error import MediaError
from qvl_data.media.video import probe_video
from qvl_data.media.video_process import COMMAND, VideoProcess, VideoProcesses, shared_processes
from video_files import save_video

TIMEOUT_S = 300.0
# A decoder that does what its file's name says.
STUB = """
import ctypes, os, time
from qvl_data.media.error import MediaError
from qvl_data.media.video_worker import serve

def deed(request, answer):
    name = os.path.basename(request["path"])
    if name == "hangs":
        time.sleep(1e6)
    if name == "waits":
        while not os.path.exists(request["go"]):
            time.sleep(0.01)
    if name == "hangs_holding_the_lock":
        ctypes.PyDLL(None).sleep(1000000)
    if name == "segfaults":
        ctypes.string_at(0)
    if name == "exits":
        os._exit(7)
    if name == "dies_half_way":
        answer(b"F", b"1" * 10)
        os.kill(os.getpid(), 9)
    if name == "is_bad":
        raise MediaError("is bad")
    if name == "has_our_bug":
        raise KeyError("bug")
    answer(b"F", b"abc")
    answer(b"F", b"")
    return {"pid": os.getpid(), "number": request.get("number")}

serve({"probe": deed}, 0, 1)
"""
STUB_COMMAND = (sys.executable, "-c", STUB)


@pytest.fixture
def processes():
    pool = VideoProcesses(command=STUB_COMMAND, limit=2)
    yield pool
    pool.close()


def ask(pool: VideoProcesses, name: str, timeout_s: float = TIMEOUT_S, **request: object):
    return pool.ask(Path(name), {"do": "probe", **request}, timeout_s=timeout_s)


def is_running(pid: int) -> bool:
    """Say whether a process is there; one that has ended and was not reaped counts as there."""
    return Path(f"/proc/{pid}").exists()


def test_answers_carry_frames_and_findings(processes: VideoProcesses) -> None:
    reply = ask(processes, "good", number=5)
    assert list(reply.frames) == [b"abc", b""]
    assert reply.found["number"] == 5


def test_one_process_serves_many_requests(processes: VideoProcesses) -> None:
    assert len({ask(processes, "good").found["pid"] for _ in range(5)}) == 1


@pytest.mark.parametrize("name", ["hangs", "hangs_holding_the_lock"])
def test_a_decoder_that_never_returns_is_killed_at_the_deadline_and_replaced(
    processes: VideoProcesses, name: str
) -> None:
    before = ask(processes, "good").found["pid"]
    with pytest.raises(MediaError, match=f"within 0.2 s .*worked on {name} was killed"):
        ask(processes, name, timeout_s=0.2)
    assert not is_running(before)
    assert ask(processes, "good").found["pid"] != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segfaults", "decoded segfaults was ended by SIGSEGV: the file breaks"),
        ("exits", "decoded exits ended with exit code 7"),
        ("dies_half_way", "decoded dies_half_way was killed from outside"),
    ],
)
def test_a_decoder_that_dies_is_replaced_and_the_file_named(processes: VideoProcesses, name: str, message: str) -> None:
    before = ask(processes, "good").found["pid"]
    with pytest.raises(MediaError, match=message):
        ask(processes, name)
    assert not is_running(before)
    assert ask(processes, "good").found["pid"] != before


def test_an_unusable_file_and_our_own_bug_leave_the_process_alive(processes: VideoProcesses) -> None:
    before = ask(processes, "good").found["pid"]
    with pytest.raises(MediaError, match=r"^is bad$"):
        ask(processes, "is_bad")
    assert ask(processes, "good").found["pid"] == before
    with pytest.raises(RuntimeError, match="KeyError: 'bug'"):
        ask(processes, "has_our_bug")


def test_a_process_killed_while_idle_is_replaced(processes: VideoProcesses) -> None:
    before = ask(processes, "good").found["pid"]
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert ask(processes, "good").found["pid"] != before
    assert not is_running(before)


def test_threads_get_their_own_answers_from_at_most_the_limit_of_processes(processes: VideoProcesses) -> None:
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda number: ask(processes, "good", number=number), range(100)))
    assert [reply.found["number"] for reply in replies] == list(range(100))
    assert len({reply.found["pid"] for reply in replies}) <= 2


def test_one_thread_can_wait_while_others_work(processes: VideoProcesses, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, processes, "waits", go=str(tmp_path / "go"))
        # One behind the other, the good one would wait for the one that waits for it.
        assert ask(processes, "good").frames
        assert not waiting.done()
        (tmp_path / "go").touch()
        assert waiting.result().frames


def test_a_command_that_does_not_start_is_our_error_not_the_file_s() -> None:
    with pytest.raises(RunError, match="does not start: exit code 3"):
        VideoProcess((sys.executable, "-c", "raise SystemExit(3)"))


def test_closing_leaves_no_process_and_no_zombie(processes: VideoProcesses) -> None:
    pid = ask(processes, "good").found["pid"]
    processes.close()
    assert not is_running(pid)


def test_a_fork_neither_uses_nor_ends_the_processes_of_its_parent(processes: VideoProcesses) -> None:
    pid = ask(processes, "good").found["pid"]
    mine = shared_processes()
    child = os.fork()
    if child == 0:
        processes.close()
        os._exit(0 if shared_processes() is not mine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(processes, "good").found["pid"] == pid


PARENT = """
import json, sys, threading, time
from pathlib import Path
from qvl_data.media.video_process import VideoProcesses
command = json.loads(sys.argv[1])
pool = VideoProcesses(command=command, limit=2)
print(pool.ask(Path("good"), {"do": "probe"}, timeout_s=300).found["pid"], flush=True)
threading.Thread(target=lambda: pool.ask(Path("hangs"), {"do": "probe"}, timeout_s=1000)).start()
time.sleep(1e6)
"""


def test_processes_end_when_the_parent_is_killed_even_in_the_middle_of_decoding() -> None:
    with subprocess.Popen(
        (sys.executable, "-c", PARENT, json.dumps(STUB_COMMAND)), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        parent.kill()
    try:
        # Readable once the process has ended; it is not our child, so it cannot be waited for.
        import select

        assert select.select([handle], [], [], 120)[0]
    finally:
        os.close(handle)


def test_the_real_program_ends_with_its_input() -> None:
    done = subprocess.run(COMMAND, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0


def test_an_exiting_program_leaves_no_process_and_no_complaint(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=3)
    program = (
        "import sys; from pathlib import Path\n"
        "from qvl_data.media.video import probe_video\n"
        "print(probe_video(Path(sys.argv[1]), timeout_s=300).frames)"
    )
    done = subprocess.run(
        (sys.executable, "-X", "dev", "-c", program, str(path)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_probing_loads_neither_the_decoder_nor_frameworks_into_the_caller(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=3)
    program = (
        "import sys; from pathlib import Path\n"
        "from qvl_data.media.video import probe_video\n"
        "probe_video(Path(sys.argv[1]), timeout_s=300)\n"
        "print(sorted({'av', 'transformers', 'mindspore', 'torch', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        (sys.executable, "-c", program, str(path)), capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout == "[]\n"


def test_the_shared_processes_are_one_pool() -> None:
    assert shared_processes() is shared_processes()


def test_a_video_process_decodes_for_real(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=3)
    process = VideoProcess()
    try:
        found = process.ask({"do": "probe", "path": str(path)}, timeout_s=TIMEOUT_S).found
        assert found["frames"] == 3
        assert probe_video(path, timeout_s=TIMEOUT_S).digest == found["digest"]
    finally:
        assert process.end() is None
        assert not process.is_alive
