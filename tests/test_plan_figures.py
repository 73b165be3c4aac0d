"""The planner against published memory, and the pages and pictures against the planner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from planning import figures, published  # noqa: E402 (the parts of a script)


@pytest.fixture(scope="module")
def sizes() -> dict[str, Any]:
    return figures.sizes()


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_published_speed_is_met_within_fifteen_percent_and_told() -> None:
    told = page("plan.md")
    for row in published.compare_speed():
        assert abs(row["error"]) <= 0.15
        assert f"| {row['planned_samples_per_s']:.1f} | {100 * row['error']:+.0f} % |" in told


def test_published_points_are_met_within_fifteen_percent() -> None:
    rows = published.compare()
    assert len(rows) == 6
    assert all(row["within_15_percent"] for row in rows)
    told = page("plan.md")
    for row in rows:
        assert f"| {row['planned_gib']:.1f} | {100 * row['error']:+.1f} % |" in told


@pytest.mark.parametrize("name", figures.SIZES)
def test_the_best_plan_is_no_slower_than_the_reference(sizes: dict[str, Any], name: str) -> None:
    found = sizes[name]
    assert found["best"]["step_s"] <= found["reference"]["step_s"]
    assert found["best"]["memory_gib"] <= figures.MEMORY_GIB * (1 - figures.HEADROOM)
    told = page("plan.md")
    for kind in ("reference", "same degrees, our split", "best"):
        plan = found[kind]
        assert f"| {plan['memory_gib']:.1f} | {plan['step_s']:.2f} | {plan['bubble']:.1%} |" in told


def test_the_tables_of_scale_are_what_the_planner_says() -> None:
    told = page("scale.md")
    for points in figures.scale().values():
        for one in points:
            if "layout" in one:
                row = (
                    f"| {one['memory_gib']:.1f} | {one['step_s']:.2f} | {one['tokens_per_s']:,.0f} | {one['mfu']:.1%} |"
                )
                assert f"| {one['devices']:,} | {one['global_batch']:,} |" in told
                assert row in told
            else:
                assert f"{one['least_gib']} GiB at least" in told


def test_the_pictures_are_as_they_would_be_drawn() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "planning" / "curves.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
