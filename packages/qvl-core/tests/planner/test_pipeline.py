"""The clock of plans against the simulated clock of the pipeline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.parallel.clock import StageTimes, simulate
from qvl_core.planner.pipeline import clock_seconds


@settings(deadline=None, max_examples=80)
@given(
    stages=st.lists(st.tuples(st.floats(0.1, 3.0), st.floats(0.1, 3.0)), min_size=1, max_size=8),
    micro_batches=st.sampled_from([1, 2, 3, 7, 20, 60]),
    is_frozen=st.booleans(),
)
def test_a_step_takes_as_long_as_on_the_simulated_clock(
    stages: list[tuple[float, float]], micro_batches: int, is_frozen: bool
) -> None:
    forward = [ahead for ahead, _ in stages]
    backward = [back for _, back in stages]
    if is_frozen:
        backward[0] = 0.0
    times = [
        StageTimes(forward=(ahead,) * micro_batches, backward=(back,) * micro_batches if back else ())
        for ahead, back in zip(forward, backward, strict=True)
    ]
    makespan = simulate(times).makespan
    # Few micro batches are all run; of many, the rest are as slow as the slowest stage.
    tolerance = 1e-9 if micro_batches <= 2 * len(stages) + 16 else 0.02
    found = clock_seconds(forward, backward, micro_batches, [0.0] * len(stages))
    assert makespan * (1 - 1e-9) <= found <= makespan * (1 + tolerance)


def test_the_last_update_ends_a_step() -> None:
    # Stage 1 is done with its micro batches after 4 seconds, stage 0 after 5.
    assert clock_seconds([1.0, 1.0], [1.0, 1.0], 1, [0.0, 0.0]) == pytest.approx(4.0)
    assert clock_seconds([1.0, 1.0], [1.0, 1.0], 1, [0.0, 10.0]) == pytest.approx(13.0)
    assert clock_seconds([1.0, 1.0], [1.0, 1.0], 1, [2.0, 0.0]) == pytest.approx(6.0)
