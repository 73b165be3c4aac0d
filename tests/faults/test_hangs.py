"""A rank that hangs in the middle of training: found, named, and the Python stacks of every rank written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from project import REPLICAS, STAGES, Shape
from running import Run, last_step, newest_checkpoint


@pytest.mark.parametrize(
    ("shape", "kind"), [(REPLICAS, "sleep"), (STAGES, "loop")], ids=["dp2 asleep", "pp2 endless loop"]
)
def test_a_rank_that_hangs_while_training_is_found_with_the_stacks_of_all_ranks(
    project: Path, begin: Callable[..., Run], report: list[dict[str, object]], shape: Shape, kind: str
) -> None:
    folder = project / f"hang_{kind}"
    run = begin(folder.name, shape, QVL_TEST_FAULT=f"{kind}:1:5")
    log = folder / "logs" / "rank_001.log"
    run.until(lambda: log.exists() and f"fault {kind}" in log.read_text(), "fault")
    found_s = run.end()
    output = run.output()
    assert run.process.returncode == 1, output
    assert "rank 1 (" in output
    assert "hangs: no sign of life" in output
    assert f"in _{kind}" in output, "the function that it stands in"
    for rank in range(shape.ranks):
        text = (folder / "logs" / f"rank_{rank:03d}.log").read_text()
        assert "most recent call first" in text, f"no stack of rank {rank}"
    assert last_step(folder) == 4
    assert newest_checkpoint(folder) == 3
    report.append(
        {"fault": f"hang: {kind}", "layout": shape.name, "rank": 1, "fired": True, "told": 4, "lost_steps": 1,
         "stopped_s": round(found_s, 2), "processes_left": len(run.left())}
    )  # fmt: skip
