"""Following a log, and quoting its end."""

from __future__ import annotations

import io
import os
from pathlib import Path

from qvl_core.launch.log_file import LogTail, count_stacks, last_lines, open_log, stack_top

STACKS = """\
Current thread 0x00007f1 (most recent call first):
  File "worker.py", line 113 in _end_with_launcher
  File "threading.py", line 982 in run

Thread 0x00007f2 (most recent call first):
  File "task.py", line 43 in fault
  File "task.py", line 20 in work
  File "worker.py", line 55 in main
  File "<frozen runpy>", line 88 in _run_code
  File "<frozen runpy>", line 198 in _run_module_as_main
"""


def section(path: Path, text: str) -> None:
    descriptor = open_log(path, "python -m x")
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_only_whole_new_lines_are_shown_and_neither_the_head_nor_an_earlier_run(tmp_path: Path) -> None:
    path, screen = tmp_path / "rank_000.log", io.StringIO()
    section(path, "old\n")
    tail = LogTail(path, screen)
    section(path, "one\ntw")
    tail.read()
    tail.show()
    assert screen.getvalue() == "one\n"
    with path.open("a") as file:
        file.write("o\nthree\n")
    tail.read()
    tail.show()
    assert screen.getvalue() == "one\ntwo\nthree\n"


def test_what_follows_a_failure_is_not_shown(tmp_path: Path) -> None:
    path, screen = tmp_path / "rank_000.log", io.StringIO()
    tail = LogTail(path, screen)
    section(path, "one\n")
    size = path.stat().st_size
    with path.open("a") as file:
        file.write("Traceback (most recent call last):\n")
    tail.read()
    tail.show(until=size)
    tail.show(until=size)
    assert screen.getvalue() == "one\n"


def test_a_log_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "none.log", None)
    tail.read()
    tail.show()
    assert last_lines(tmp_path / "none.log", 10) == ()


def test_the_end_of_a_log_is_that_of_its_last_run(tmp_path: Path) -> None:
    path = tmp_path / "rank_000.log"
    section(path, "old 1\nold 2\n")
    section(path, "new 1\nnew 2\nnew 3\n")
    assert last_lines(path, 10) == ("new 1", "new 2", "new 3")
    assert last_lines(path, 2) == ("new 2", "new 3")


def test_the_main_threads_innermost_frames_are_found_whichever_thread_was_current(tmp_path: Path) -> None:
    path = tmp_path / "rank_000.log"
    section(path, STACKS)
    assert stack_top(path, 2) == ('File "task.py", line 43 in fault', 'File "task.py", line 20 in work')
    section(path, "nothing\n")
    assert stack_top(path, 2) == ()


def test_a_stack_counts_once_it_is_whole_and_in_the_last_run_only(tmp_path: Path) -> None:
    path = tmp_path / "rank_000.log"
    section(path, STACKS)
    section(path, STACKS.rpartition('  File "<frozen runpy>"')[0])
    assert count_stacks(path) == 0
    with path.open("a") as file:
        file.write(f'  File "<frozen runpy>", line 198 in _run_module_as_main\n{STACKS}')
    assert count_stacks(path) == 2
