"""A training run as its user has it: a command that goes on by itself, watched from outside through its folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from project import Shape
from qvl_core.durable import TEMPORARY_MARK
from qvl_core.launch.proc import Status, all_statuses, family
from qvl_train.checkpoint import list_steps, open_checkpoint
from qvl_train.metrics import read_metrics

HERE = Path(__file__).parent
# Nothing takes as long, however busy the machine is. How long it took is in the report.
PATIENCE_S = 900.0
_LOOK_S = 0.002


@dataclass(kw_only=True)
class Run:
    """One `qvl run` under way. `seen` are all processes that it has started, as far as somebody looked."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path
    shape: Shape
    seen: dict[int, Status] = field(default_factory=dict)

    def ranks(self) -> dict[int, int]:
        """Give the process of each rank that trains now, as far as it is known."""
        if self.shape.ranks == 1:
            return {0: self.process.pid}
        found, living = {}, {one.process for one in self.family()}
        for log in sorted((self.folder / "logs").glob("rank_*.log")):
            heads = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("--- ")]
            number = int(heads[-1].split(" process ")[1].split(":")[0]) if heads else 0
            if number in living:
                found[int(log.stem[5:])] = number
        return found

    def family(self) -> tuple[Status, ...]:
        """Give the processes of this run that are there now, and remember them."""
        statuses = all_statuses()
        # mpiexec has a session of its own; everything descends from the command all the same.
        members = family(self.process.pid, statuses)
        self.seen.update({one.process: one for one in members})
        return members

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait until something has happened. Fails if the run ends before, or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert self.process.poll() is None, f"ended before {what}:\n{self.output()}"
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s:\n{self.output()}"
            time.sleep(_LOOK_S)
        self.family()

    def end(self) -> float:
        """Wait until the command and everything that it started are gone; give the seconds."""
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE_S:
            if self.process.poll() is None:
                self.family()
            elif not self.left():
                return time.monotonic() - started
            time.sleep(0.02)
        raise AssertionError(f"not gone after {PATIENCE_S} s: {self.left() or self.process}\n{self.output()}")

    def left(self) -> list[int]:
        """Give the processes of this run that are still there, by number."""
        now = {(one.process, one.started) for one in all_statuses()}
        return [one.process for one in self.seen.values() if (one.process, one.started) in now]

    def output(self) -> str:
        """Give all that it has printed."""
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        """End everything that is left, for the next test."""
        self.family()
        for process in self.left():
            os.kill(process, signal.SIGKILL)
        self.process.wait()


def start(
    project: Path, folder: str, shape: Shape, *words: str, settings: Sequence[str] = (), **environment: str
) -> Run:
    """Start `qvl run` of the project's recipe into a folder."""
    chosen = [f"output.dir={folder}", *shape.settings, *settings]
    command = [sys.executable, "-m", "qvl_core.cli", "run", "recipe.toml", *words]
    command += [word for setting in chosen for word in ("--set", setting)]
    path = os.pathsep.join(part for part in (str(HERE), os.environ.get("PYTHONPATH", "")) if part)
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "QVL_TEST_RANKS": str(shape.ranks)}
    log = project / f"{folder.replace('/', '_')}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=project, env={**variables, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    return Run(process=process, folder=project / folder, log=log, shape=shape)


def curve(folder: Path) -> list[tuple[int, str, str]]:
    """Give step, loss and gradient norm of every step so far, exactly."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    return [(row["step"], float(row["loss"]).hex(), float(row["gradient_norm"]).hex()) for row in rows]


def last_step(folder: Path) -> int:
    """Give the last step that the run has told of."""
    return max((step for step, _, _ in curve(folder)), default=0)


def unfinished(folder: Path) -> frozenset[str]:
    """Name the checkpoints that are being written at this moment, or were when their writers died."""
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return frozenset(name for name in names if TEMPORARY_MARK in name and "step_" in name)


def metrics_file(folder: Path) -> int:
    """Tell one metrics file from the next: a run that goes on begins with a new file of the rows that still hold."""
    try:
        return (folder / "metrics.jsonl").stat().st_ino
    except FileNotFoundError:
        return 0


def newest_checkpoint(folder: Path) -> int:
    """Give the newest checkpoint's step, 0 for none. Everything that is named like a checkpoint has to be one."""
    steps = [(step, open_checkpoint(path).state.step) for step, path in list_steps(folder)]
    assert all(named == held for named, held in steps), steps
    return max((step for step, _ in steps), default=0)


def kill_in_a_while(run: Run, generator: random.Random, longest_s: float) -> int:
    """Kill a random rank at a random moment of the seconds to come; give the rank. The run must not end by then."""
    moment = time.monotonic() + generator.uniform(0.0, longest_s)
    ranks = run.ranks()
    while time.monotonic() < moment:
        time.sleep(_LOOK_S)
    rank = generator.choice(sorted(ranks))
    run.family()
    os.kill(ranks[rank], signal.SIGKILL)
    return rank
