"""Real launches of a task that does next to nothing: it needs mpi4py, and starts in a second or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from qvl_core.launch.proc import Status, all_statuses
from qvl_core.specs import load_spec, to_hf_config

# Nothing takes as long, however busy the machine is; what hangs is ended.
PATIENCE_S = 300.0
RECIPE = """\
schema = 1
task = "sft"
[model]
name = "qwen2.5-vl-tiny"
[weights]
source = "weights"
init = "random"
[data]
sources = [{ path = "data.json" }]
workers = 0
[layout]
dp = 2
[train]
steps = 20
micro_batch = 1
global_batch = 8
[train.optimizer]
lr = 1e-3
[launch]
device = "cpu"
[output]
dir = "run"
"""
TASK = (Path(__file__).parent / "fake_task.py").read_text(encoding="utf-8")


def listening() -> set[str]:
    """Give the sockets on which something of this machine listens, by their numbers."""
    found = set()
    for name in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        found |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return found


def open_sockets(process: int) -> set[str]:
    """Give the sockets that a process has open."""
    try:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:
        return set()
    return {link for link in links if link.startswith("socket:")}


@dataclass(kw_only=True)
class Launch:
    """One `qvl run` that is under way or has ended, and what its workers are."""

    process: subprocess.Popen[str]
    folder: Path
    out: str = ""
    err: str = ""
    seen: dict[int, Status] = field(default_factory=dict)
    sockets: set[str] = field(default_factory=set)

    def workers(self) -> dict[int, int]:
        """Give the processes of the ranks, as far as their logs name them."""
        found = {}
        for log in sorted((self.folder / "run" / "logs").glob("rank_*.log")):
            heads = [line for line in log.read_text().splitlines() if line.startswith("--- ")]
            if heads:
                found[int(log.stem[5:])] = int(heads[-1].split(" process ")[1].split(":")[0])
        return found

    def until(self, log: str, text: str) -> None:
        """Wait until a log holds a text; the launch has to go on until then."""
        path, deadline = self.folder / "run" / "logs" / log, time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.note()
            # Asked before the log is read: it may end right after it has written this.
            has_ended = self.process.poll() is not None
            if path.exists() and text in path.read_text():
                return
            assert not has_ended, self.process.communicate()
            time.sleep(0.02)
        raise AssertionError(f"{path} does not hold {text!r}")

    def note(self) -> None:
        """Remember the processes that the launch has below it now."""
        # A child that leads no session of its own yet is still in that of the tests.
        starters = {one.process for one in all_statuses() if one.parent == self.process.pid}
        self.seen.update({one.process: one for one in all_statuses() if one.session in starters})
        self.sockets.update(*(open_sockets(process) for process in self.seen))

    def end(self) -> int:
        """Wait for the end; give the exit code."""
        self.note()
        try:
            self.out, self.err = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            raise
        return self.process.returncode

    def left(self) -> list[Status]:
        """Give the processes of this launch that are still there."""
        now = {(one.process, one.started): one for one in all_statuses()}
        return [one for one in self.seen.values() if (one.process, one.started) in now]


Starter = Callable[..., Launch]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start `qvl run` of a recipe of two ranks; afterwards no process of it may be left, and no port be taken."""
    if not _has_mpi():
        pytest.skip("mpi4py and Open MPI are not installed: qvl-train[mpi] brings them")
    _prepare(tmp_path)
    launches: list[Launch] = []

    def run(fault: str = "none", *words: str, steps: int = 3, **environment: str) -> Launch:
        command = [sys.executable, "-m", "qvl_core.cli", "run", "recipe.toml", *words]
        path = os.pathsep.join(part for part in (str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")) if part)
        variables = {**os.environ, "FAULT": fault, "STEPS": str(steps), "PYTHONPATH": path}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**variables, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        launches.append(Launch(process=process, folder=tmp_path))
        return launches[-1]

    yield run
    for launch in launches:
        left = launch.left()
        for one in left:
            os.kill(one.process, signal.SIGKILL)
        assert left == [], launch.err
        assert launch.process.poll() is not None
        assert listening() & launch.sockets == set()


def _has_mpi() -> bool:
    from importlib import util

    return util.find_spec("mpi4py") is not None and (Path(sys.executable).parent / "mpiexec").exists()


def _prepare(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "data.json").write_text("[]")
    (folder / "weights").mkdir()
    (folder / "weights" / "config.json").write_text(json.dumps(to_hf_config(load_spec("qwen2.5-vl-tiny"))))
    # An installed package as pip would leave it: found before the real one, as PYTHONPATH comes first.
    information = folder / "site" / "fake_task-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-task\nVersion: 1.0\n")
    points = "[qvl.tasks]\nsft = fake_task:run\n[qvl.workers]\nsft = fake_task:work\n"
    (information / "entry_points.txt").write_text(points)
    (folder / "site" / "fake_task.py").write_text(TASK)
