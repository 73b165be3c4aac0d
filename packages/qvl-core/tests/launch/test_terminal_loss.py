"""A run whose terminal is gone goes on without it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from qvl_core.launch.terminal_loss import TerminalLoss

PRINTER = """
import sys
from pathlib import Path
from qvl_core.launch.terminal_loss import TerminalLoss
with TerminalLoss():
    print("ready", flush=True)
    while not Path("gone").exists():
        pass
    print("nobody reads this", flush=True)
    Path("result").write_text("done")
"""


def test_what_is_printed_after_the_terminal_is_gone_fails_nothing(tmp_path: Path) -> None:
    outside, terminal = pty.openpty()
    process = subprocess.Popen(
        # A session of its own, whose terminal this is: its loss is what sends SIGHUP.
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{PRINTER}"],
        cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        assert b"ready" in os.read(outside, 100)
        os.close(outside)
        (tmp_path / "gone").touch()
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "result").read_text() == "done"


def test_output_that_is_no_terminal_stays(capfd: pytest.CaptureFixture[str]) -> None:
    with TerminalLoss():
        signal.raise_signal(signal.SIGHUP)
        print("still here", flush=True)
    assert "still here" in capfd.readouterr().out


def test_the_handler_of_before_is_put_back_and_nohup_is_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with TerminalLoss():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with TerminalLoss():
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
