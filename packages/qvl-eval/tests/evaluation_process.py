"""An evaluation in a process of its own whose model is a stand-in, with any number of replicas: what can be killed.

Everything but the model is real: the folder's lock, the plan, a process and a file for each replica, gathering, scores.
The process is forked from the test, which has imported everything, so that it comes to its work in milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import qvl_eval.evaluation.evaluate as front
import qvl_eval.evaluation.replica as replica
from qvl_core.errors import QvlError, RunError
from qvl_core.launch.proc import all_statuses
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_eval.answers.job import Piece
from qvl_eval.benchmarks.asking import PreparedRow
from qvl_eval.benchmarks.tsv import Row
from qvl_eval.evaluation.setting import prepare
from qvl_eval.evaluation.work_plan import read_plan
from rich.console import Console

STEP_S = 0.001
LOADED: Any = SimpleNamespace(
    processor=SimpleNamespace(spec=SimpleNamespace(text=SimpleNamespace(max_position_embeddings=64))), options=None
)


class StandIn:
    """Answers a row after as many steps as its index says, with a text that depends on the row alone."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    def submit(self, job: Any) -> None:
        self.left[job.job_id] = 1 + int(hashlib.sha256(job.job_id.encode()).hexdigest(), 16) % 3

    def step(self) -> list[Piece]:
        time.sleep(STEP_S)
        pieces = []
        for name in list(self.left):
            self.left[name] -= 1
            text = hashlib.sha256(name.encode()).hexdigest()[0]
            pieces.append(Piece(job_id=name, text=text, new_tokens=1, finish=None if self.left[name] else "stop"))
            if not self.left[name]:
                del self.left[name]
        return pieces


def prepare_stand_in(row: Row, parts: Any, key: str, *rest: Any, **options: Any) -> PreparedRow:
    job: Any = SimpleNamespace(job_id=row.index, prompt=SimpleNamespace(patches=np.zeros(1)), prompt_tokens=3)
    return PreparedRow(row=row, key=key, job=job)


def fork(work: Callable[[], None]) -> int:
    """Run the work in a child in a session of its own; its exit code is 0 or, after an error, 1."""
    is_leader, says_so = os.pipe()
    child = os.fork()
    if child:
        os.close(says_so)
        # Before it leads a session, no signal reaches all of it.
        os.read(is_leader, 1)
        os.close(is_leader)
        return child
    code = 1
    try:
        os.close(is_leader)
        os.setsid()
        os.close(says_so)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work()
        code = 0
    except QvlError as error:
        print(error, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(
    path: Path,
    settings: tuple[str, ...],
    replicas: int,
    *,
    dies: Callable[[int], bool] = lambda _: False,
    rows: int | None = None,
) -> None:
    """Run the recipe's evaluation with so many replicas; one that `dies` is killed half way.

    With `rows` the first replica kills all processes of the run when it has been given so many.
    """
    front.load_replica = lambda *_, **__: (LOADED, _first(rows))  # type: ignore[assignment]
    replica.prepare_row = prepare_stand_in
    settings = (*settings, f"layout.dp={replicas}")
    recipe = load_recipe(path, settings)

    def start_workers() -> None:
        # In the same session as this process, so that one signal kills them all.
        children = [_replica(recipe, number, replicas, dies(number), rows) for number in range(replicas)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise RunError(f"a replica has failed: {codes}")

    front.evaluate(recipe, RunOptions(start_workers=start_workers), Console(quiet=True))


def _first(rows: int | None) -> StandIn:
    return StandIn() if rows is None else _Dying(rows, lambda: os.killpg(0, signal.SIGKILL))


def _replica(recipe: Any, number: int, count: int, is_dying: bool, rows: int | None) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        evaluation = prepare(recipe, is_checked=True)
        plan = read_plan(evaluation.folder, evaluation.protocol.digest)
        driver: Any = StandIn() if number else _first(rows)
        if is_dying:
            driver = _Dying(len(plan.left) // count // 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
        part = replica.Replica(loaded=LOADED, driver=driver, number=number, count=count)
        replica.answer_share(evaluation, part, plan, Console(quiet=True))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class _Dying(StandIn):
    """Kills when it has been given so many rows."""

    def __init__(self, rows: int, kill: Callable[[], None]) -> None:
        super().__init__()
        self.rows = rows
        self.kill = kill

    def submit(self, job: Any) -> None:
        self.rows -= 1
        if self.rows < 0:
            self.kill()
        super().submit(job)


def kill_all(child: int) -> int:
    """Kill a forked evaluation with all its replicas, and give the exit code: -9, or that of one that had ended."""
    os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # Replicas that are still ending hold the folder: the next run would find another process there.
    while any(one.session == child and one.state not in "ZX" for one in all_statuses()):
        time.sleep(0.001)
    return code
