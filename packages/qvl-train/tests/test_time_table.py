"""The table at the end: everything a run spent, shares of it, lines that fit a terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from qvl_core.parallel.step_clock import StepClock
from qvl_train import time_table
from qvl_train.meter import PARTS
from qvl_train.time_table import TimeTable

ROW = dict.fromkeys(PARTS, 0.0) | {"forward_s": 1.0, "backward_s": 2.5, "optimizer_s": 0.5}
COUNTS = {"step_time_s": 4.0, "tokens": 1000, "model_tflops_text": 0.006, "model_tflops_vision": 0.002}


def test_shares_are_of_all_the_time_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time_table.time, "perf_counter", lambda: now[0])
    table = TimeTable()
    clock = StepClock(SimpleNamespace(communication_s=0.0, waiting_s=0.0))
    for _ in range(20):
        table.add({**ROW, **COUNTS})
    for _ in range(2):
        with table.between("saving", clock):
            now[0] += 10.0
    assert clock.take().total_s == 0.0
    assert table.lines() == [
        "20 steps in 1:40, median 4 s a step, 250 tokens/s, 2.0 GFLOP/s",
        "  where the time went        total    share   mean of a step",
        "  forward                   20.0 s    20.0%          1.000 s",
        "  backward                  50.0 s    50.0%          2.500 s",
        "  optimizer                 10.0 s    10.0%          0.500 s",
        "  saving                    20.0 s    20.0%",
    ]


def test_a_run_without_a_step_has_no_table() -> None:
    assert TimeTable().lines() == []


def test_long_times_are_clock_times_and_rates_of_devices_are_tera() -> None:
    table = TimeTable()
    table.add({**ROW, **COUNTS, "forward_s": 100_000.0, "model_tflops_text": 1e8})
    lines = table.lines()
    assert lines[0].endswith("TFLOP/s")
    assert "27:46:40" in lines[2]
    assert max(map(len, lines)) < 100
