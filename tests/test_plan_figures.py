"""The planner against published memory, and measured memory, and the pages and pictures against the planner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from planning import figures, memory, published  # noqa: E402 (the parts of a script)


@pytest.fixture(scope="module")
def sizes() -> dict[str, Any]:
    return figures.sizes()


def test_published_speed_is_met_within_fifteen_percent() -> None:
    assert all(abs(row["error"]) <= 0.15 for row in published.compare_speed())


def test_published_points_are_met_within_fifteen_percent() -> None:
    rows = published.compare()
    assert len(rows) == 6
    assert all(row["within_15_percent"] for row in rows)


@pytest.mark.parametrize("name", figures.SIZES)
def test_the_best_plan_is_no_slower_than_the_reference(sizes: dict[str, Any], name: str) -> None:
    found = sizes[name]
    assert found["best"]["step_s"] <= found["reference"]["step_s"]
    assert found["best"]["memory_gib"] <= figures.MEMORY_GIB * (1 - figures.HEADROOM)


@pytest.mark.parametrize("script", ["pages.py", "curves.py"])
def test_tables_and_pictures_are_as_they_would_be_made(script: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "planning" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_measured_memory_is_met_within_fifteen_percent() -> None:
    found = json.loads(memory.MEASURED.read_text(encoding="utf-8"))["cases"]
    assert set(found) == set(memory.CASES)
    for name, case in memory.CASES.items():
        assert memory.planned_bytes(case) / 1e6 == pytest.approx(found[name]["measured_mb"], rel=0.15)
