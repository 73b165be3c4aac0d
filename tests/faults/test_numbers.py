"""A NaN or infinity that begins on one rank: all stop together, and say step, rank and samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from project import EVERY, REPLICAS, STAGES, Shape
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.tensor_io import read_tensor
from qvl_train.checkpoint import list_steps
from running import Run, last_step, newest_checkpoint

FAULTY_STEP = 5


@pytest.mark.parametrize(
    ("shape", "rank", "kind", "text"),
    [
        (REPLICAS, 1, "nan_picture", f"the loss of step {FAULTY_STEP} is nan"),
        (REPLICAS, 1, "inf_gradient", f"the gradient norm of step {FAULTY_STEP} is "),
        (STAGES, 0, "nan_picture", f"the loss of step {FAULTY_STEP} is nan"),
        (STAGES, 0, "inf_gradient", f"the gradient norm of step {FAULTY_STEP} is "),
    ],
    ids=["loss dp2", "gradient dp2", "loss pp2", "gradient pp2"],
)
def test_all_ranks_stop_together_with_step_rank_and_samples_and_nothing_of_it_is_saved(
    project: Path,
    begin: Callable[..., Run],
    report: list[dict[str, object]],
    shape: Shape,
    rank: int,
    kind: str,
    text: str,
) -> None:
    folder = project / f"{kind}_{shape.name}"
    run = begin(folder.name, shape, QVL_TEST_FAULT=f"{kind}:{rank}:{FAULTY_STEP}")
    stopped_s = run.end()
    output = run.output()
    assert run.process.returncode == 1, output
    assert text in output
    assert "Traceback" not in output
    assert f"it began on rank {rank} (stage {rank if shape is STAGES else 0}," in output, output
    samples = [line for line in output.splitlines() if "train.json:" in line]
    assert 1 <= len(samples) <= 4, output
    logs = [(folder / "logs" / f"rank_{one:03d}.log").read_text() for one in range(shape.ranks)]
    assert all(text in log for log in logs), "every rank knows why it stopped"
    assert last_step(folder) == FAULTY_STEP - 1
    assert newest_checkpoint(folder) == FAULTY_STEP - 1 - (FAULTY_STEP - 1) % EVERY
    for _, path in list_steps(folder):
        for entries in open_sharded_folder(path).ranks.values():
            assert all(np.isfinite(read_tensor(entry)).all() for entry in entries.values())
    report.append(
        {"fault": kind, "layout": shape.name, "rank": rank, "fired": f"fault {kind}" in logs[rank],
         "told": FAULTY_STEP - 1, "run_s": round(stopped_s, 2), "processes_left": len(run.left())}
    )  # fmt: skip
    assert f"fault {kind}" in logs[rank]
