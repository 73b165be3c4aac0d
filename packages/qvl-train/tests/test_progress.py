"""What is shown: durations, the curve in one line, lines in a log that is no terminal."""

from __future__ import annotations

import io

import pytest
from qvl_train.progress import TrainingProgress, format_duration, sparkline
from rich.console import Console


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_falling_curve_falls() -> None:
    line = sparkline([8, 7, 6, 5, 4, 3, 2, 1], width=8)
    assert line == "█▇▆▅▄▃▂▁"


def test_a_flat_curve_and_none_at_all_are_drawn() -> None:
    assert len(sparkline([1.0] * 100, width=10)) == 10
    assert sparkline([]) == ""


def test_a_log_file_gets_about_25_lines_and_the_last_step() -> None:
    console = Console(file=io.StringIO(), width=200)
    with TrainingProgress(console, first_step=0, steps=101) as progress:
        for step in range(1, 102):
            progress.validating(step, 101)
            progress.advance(step, loss=1.5, step_time_s=0.5, tokens_per_s=1234.5)
    # The oldest rich ends with an empty line.
    lines = console.file.getvalue().rstrip("\n").splitlines()  # type: ignore[attr-defined]
    assert 20 <= len(lines) <= 30
    assert lines[-1].startswith("step 101/101  loss 1.5000  0.50 s/step  1,234 tokens/s  0:00 left")


def test_rates_are_means_over_the_last_fifty_steps_by_time() -> None:
    console = Console(file=io.StringIO(), width=200)
    with TrainingProgress(console, first_step=0, steps=60) as progress:
        for step in range(1, 61):
            # The first ten are forgotten. Then a slow step with few tokens to each three fast ones.
            slow = step <= 10 or step % 4 == 0
            progress.advance(
                step, loss=1.0, step_time_s=2.0 if slow else 1.0, tokens_per_s=50.0 if slow else 100.0, mfu=0.3
            )
    last = console.file.getvalue().rstrip("\n").splitlines()[-1]  # type: ignore[attr-defined]
    seconds, tokens = 13 * 2.0 + 37 * 1.0, 50 * 100.0
    rates = f"{seconds / 50:.2f} s/step  {tokens / seconds:.0f} tokens/s"
    assert last == f"step 60/60  loss 1.0000  {rates}  30.0% MFU  0:00 left"


def test_a_terminal_of_a_hundred_columns_holds_the_longest_line() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with TrainingProgress(console, first_step=0, steps=100_000) as progress:
        progress.advance(12_345, loss=12.3456, step_time_s=12.34, tokens_per_s=123_456.7, mfu=0.345)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "12345/100000 loss 12.3456  12.34 s/step  123,457 tokens/s  34.5% MFU  300:27:43 left" in text
