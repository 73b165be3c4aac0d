"""Progress goes to stderr, seldom enough to be read."""

from __future__ import annotations

import io
import sys

import pytest
from qvl_data.commands.progress import stderr_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 16.0, 17.0, 40.0])
    with stderr_progress(lambda: next(times)) as tell:
        for done in (1000, 2000, 3000):
            tell("records converted", done, 0)
        tell("records checked", 4000, 8000)
    assert capsys.readouterr().err == "records converted: 2,000\nrecords checked: 4,000 of 8,000 (50%)\n"


def test_a_terminal_has_one_line_that_is_cleared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    times = iter([0.0, 1.0, 1.1])
    with stderr_progress(lambda: next(times)) as tell:
        tell("records converted", 1000, 0)
        tell("records converted", 2000, 0)
    assert terminal.getvalue() == "\rrecords converted: 1,000\x1b[K\r\x1b[K"
