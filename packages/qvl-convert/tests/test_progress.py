"""Progress: lines on stderr where nobody watches, never on stdout; numbers that people read."""

import pytest
from qvl_convert import progress
from qvl_convert.progress import byte_progress, duration, gigabytes


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (4_450_000_000, "4.45 GB"), (1.468e11, "146.80 GB")],
)
def test_bytes_for_people(count, text):
    assert gigabytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (4.24, "4.2 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (59.94, "59.9 s")],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text


def test_lines_come_now_and_then_on_stderr(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 16.0, 20.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with byte_progress("writing", 4_000_000_000) as advance:
        for _ in range(4):
            advance(1_000_000_000)
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == [
        "writing: 2.00 GB of 4.00 GB (50%), 0.12 GB/s, 16.0 s left",
        "writing: 4.00 GB of 4.00 GB (100%), 0.10 GB/s, 0.0 s left",
    ]


def test_a_terminal_gets_a_bar_on_stderr(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with byte_progress("writing", 10) as advance:
        advance(10)
    found = capsys.readouterr()
    assert found.out == ""
    assert "writing" in found.err
