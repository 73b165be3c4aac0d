"""The learning rate at the points that the docstring promises."""

from __future__ import annotations

import math

import pytest
from qvl_train.schedule import learning_rate

COMMON = {"steps": 100, "peak": 1e-3, "minimum": 1e-5, "warmup": 0.1}


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_rises_linearly_to_the_peak(name: str) -> None:
    rates = [learning_rate(step, name=name, **COMMON) for step in range(1, 11)]
    assert rates == pytest.approx([1e-4 * step for step in range(1, 11)])


@pytest.mark.parametrize(("name", "last"), [("cosine", 1e-5), ("linear", 1e-5), ("constant", 1e-3)])
def test_ends_at_the_minimum_unless_constant(name: str, last: float) -> None:
    assert learning_rate(100, name=name, **COMMON) == pytest.approx(last)


def test_cosine_is_half_way_down_in_the_middle_of_the_decay() -> None:
    assert learning_rate(55, name="cosine", **COMMON) == pytest.approx((1e-3 + 1e-5) / 2)


def test_cosine_follows_the_formula() -> None:
    expected = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * (30 - 10) / 90))
    assert learning_rate(30, name="cosine", **COMMON) == pytest.approx(expected, rel=1e-12)


def test_without_warmup_the_first_step_is_already_decaying() -> None:
    first = learning_rate(1, name="linear", steps=10, peak=1.0, minimum=0.0, warmup=0.0)
    assert first == pytest.approx(0.9)


def test_a_run_of_one_step_has_a_rate() -> None:
    assert learning_rate(1, name="constant", steps=1, peak=1.0, minimum=0.0, warmup=0.1) == 1.0
