"""A run as its folder tells it: recipe and versions, numbers, memory, checkpoints; and what is missing or odd there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import InputError, OutputError, Problem
from qvl_core.input_file import printable, readable
from qvl_core.json_file import read_json_object
from qvl_core.run_folder import RUN_FILE

from qvl_train.report.metrics_file import METRICS, MetricsFile
from qvl_train.report.numbers import number_text
from qvl_train.report.run_facts import RunFacts, read_facts
from qvl_train.report.series import first_distance
from qvl_train.reports import MEMORY_FILE, MEMORY_KEY

_MOST_NAMED = 5
_MOST_BADGE = 60
# No process has as much: a larger number is none of ours.
_MOST_GIB = 1e9


@dataclass(kw_only=True)
class RunHistory:
    """A run and its numbers. `update` reads what has come since; `name` tells runs of one page apart."""

    folder: Path
    name: str
    facts: RunFacts
    metrics: MetricsFile
    memory_gib: tuple[float, ...] = ()
    memory_problem: str = ""

    def update(self) -> bool:
        """Read what is new, and say whether there was anything. Raises OutputError where it cannot be.

        What was read stays where the folder is gone; a run that makes it anew is read anew.
        """
        if not self.folder.is_dir():
            raise OutputError(Problem(where=printable(str(self.folder)), message=f"the folder of {self.name} is gone"))
        facts, (memory, problem) = read_facts(self.folder), _memory(self.folder)
        has_changed = self.metrics.update() or facts != self.facts or memory != self.memory_gib
        self.facts, self.memory_gib, self.memory_problem = facts, memory, problem
        return has_changed

    @property
    def last_step(self) -> int:
        """The last step that was taken and has a row, whatever else is in it; 0 without one."""
        return self.metrics.last_step or 0

    @property
    def loss_trouble(self) -> str:
        """Say that the last loss is no number, and since which step; nothing where it is one, or there is none.

        A step that was not taken for it, which ends a run, is the last one.
        """
        steps, losses = self.metrics.all_values("loss")
        if self.metrics.not_finite and self.metrics.not_finite[-1][0] > (steps[-1] if len(steps) else -1):
            return printable(self.metrics.not_finite[-1][1].partition(";")[0], _MOST_BADGE)
        finite = np.flatnonzero(np.isfinite(losses))
        since = int(finite[-1]) + 1 if len(finite) else 0
        if since == len(losses):
            return ""
        return f"loss is {number_text(float(losses[-1]))} since step {int(steps[since]):,}"

    def notices(self) -> list[str]:
        """Say what is missing or odd, a sentence each."""
        found = [*self.facts.notices, *self.metrics.notices()]
        if self.memory_problem:
            found.append(f"{MEMORY_FILE} cannot be used: {self.memory_problem}.")
        if self.metrics.problem:
            return found
        if self.metrics.last_step is None:
            # One that was ended in its first step says so by itself.
            if not self.metrics.not_finite:
                found.append(f"No step is in {METRICS} yet.")
        elif "loss" not in self.metrics.keys:
            found.append(f"No row of {METRICS} has a loss.")
        found += self._missing_ends()
        holes = self.metrics.lost_steps("loss", self.facts.logged_every or 0)
        if holes:
            named = ", ".join(f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in holes[:_MOST_NAMED])
            more = f" and {len(holes) - _MOST_NAMED:,} more" if len(holes) > _MOST_NAMED else ""
            found.append(f"Without numbers: steps {named}{more}; lines are broken there.")
        lost = self.metrics.series("metrics_rows_lost")[1]
        if len(lost):
            found.append(f"{int(lost.sum()):,} rows were lost while the disk was full.")
        for step, why in self.metrics.failed_saves[:_MOST_NAMED]:
            found.append(f"The checkpoint of step {step:,} was not written: {printable(why)}")
        return found

    def _missing_ends(self) -> Iterator[str]:
        """Say that rows are missing before the first one, or behind the last one of a finished run."""
        # A row may lack a loss, and an earlier version's the time; validations have neither.
        steps = np.union1d(self.metrics.all_values("loss")[0], self.metrics.all_values("step_time_s")[0])
        usual = self.facts.first_logged_every or 0
        # One row or two do not tell how many steps they are apart.
        if len(steps) > 2 or not usual:
            usual = max(usual, first_distance(steps))
        if len(steps) and int(steps[0]) > usual and not self._began_with_another_every(steps):
            yield f"Rows are missing: the first one is of step {int(steps[0]):,}."
        taken = self.facts.steps_taken
        if taken is not None and self.metrics.last_step is not None and taken > self.last_step:
            yield f"Rows are missing: the run took {taken:,} steps, the last row is of step {self.last_step:,}."

    def _began_with_another_every(self, steps: NDArray[np.int64]) -> bool:
        """Tell whether all rows before the first continuation may be those of a `train.log.every` as the first row's.

        The recipe is that of the end, and free to change there; earlier versions did not record its former number.
        """
        continued = [one.step for one in self.facts.continued if one.step is not None]
        if not continued:
            return False
        first, until = int(steps[0]), min(continued)
        early = steps[steps <= until]
        return until >= first and np.array_equal(early, np.arange(first, until + 1, first))


def open_runs(folders: list[Path]) -> list[RunHistory]:
    """Read folders of trainings, with names that tell them apart. Raises OutputError with the problems of all of them.

    What a run has written before it was killed is enough; a folder that is of another task, or of no run, is a problem.
    """
    runs = open_any_runs(folders)
    problems = [_other_task(run.folder, run.facts.task) for run in runs if run.facts.task not in ("", "sft")]
    if problems:
        raise OutputError(problems)
    return runs


def open_any_runs(folders: list[Path]) -> list[RunHistory]:
    """Read folders of runs of any task. Raises OutputError with the problems of all of them."""
    problems = [problem for folder in folders if (problem := problem_with(folder)) is not None]
    if problems:
        raise OutputError(problems)
    runs: list[RunHistory] = []
    for folder, name in zip(folders, run_names(folders), strict=True):
        try:
            run = _open(folder, name)
            problems += _nothing_of_a_run(run)
            runs.append(run)
        except InputError as error:
            problems += error.problems
    if problems:
        raise OutputError(problems)
    return runs


def _open(folder: Path, name: str) -> RunHistory:
    facts, metrics, (memory, problem) = read_facts(folder), MetricsFile(folder / METRICS), _memory(folder)
    try:
        metrics.update()
    except InputError as error:
        # What a run was made with is worth a page, and a comparison, without what came of it.
        if not facts.recipe:
            raise
        metrics.problem = printable(error.problems[0].message)
    return RunHistory(folder=folder, name=name, facts=facts, metrics=metrics, memory_gib=memory, memory_problem=problem)


def _nothing_of_a_run(run: RunHistory) -> Iterator[Problem]:
    """Give the problem of a folder whose files have the names of ours, and nothing of a run in them."""
    metrics = run.metrics
    if run.facts.recipe or metrics.problem or metrics.last_step is not None or metrics.not_finite:
        return
    has_record = (run.folder / RUN_FILE).exists()
    record = f"{RUN_FILE} has no recipe" if has_record else f"there is no {RUN_FILE}"
    yield Problem(
        where=printable(str(run.folder)),
        message=f"is not the folder of a run: {record}, and {METRICS} has no row with a step",
        fix="give output.dir of the run's recipe",
    )


def problem_with(folder: Path) -> Problem | None:
    """Give what is wrong where the folder is none that a run has written to; None where it is one."""
    where = printable(str(folder))
    try:
        with readable(folder, error_type=OutputError):
            is_there, is_folder = folder.exists(), folder.is_dir()
            has_record, has_metrics = (folder / RUN_FILE).exists(), (folder / METRICS).exists()
            inside = sorted(one.parent.name for one in folder.glob(f"*/{RUN_FILE}")) if is_folder else []
    except InputError as error:
        return error.problems[0]
    if not is_there:
        return Problem(where=where, message="there is no such folder", fix="give output.dir of the run's recipe")
    if not is_folder:
        fix = printable(str(folder.parent)) if folder.name in (RUN_FILE, METRICS) else "give output.dir of the recipe"
        return Problem(where=where, message="is a file, not the folder of a run", fix=fix)
    if has_record or has_metrics:
        return None
    fix = "give output.dir of the run's recipe"
    if inside:
        fix = "\n".join(printable(str(folder / name)) for name in inside[:_MOST_NAMED])
    return Problem(where=where, message=f"is not the folder of a run: it has neither {RUN_FILE} nor {METRICS}", fix=fix)


def run_names(folders: list[Path]) -> list[str]:
    """Give each folder the shortest end of its path that no other one has."""
    # `resolve` raises where a link leads to itself.
    parts = [Path(os.path.realpath(folder)).parts for folder in folders]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _memory(folder: Path) -> tuple[tuple[float, ...], str]:
    """Give every rank's peak in GiB, none where the run has not ended, and what is wrong with the file."""
    path = folder / MEMORY_FILE
    if not path.is_symlink() and not path.exists():
        return (), ""
    try:
        found = read_json_object(path, error_type=OutputError).get(MEMORY_KEY)
    except InputError as error:
        return (), printable(error.problems[0].message)
    except OSError as error:
        return (), f"cannot be read: {error.strerror}"
    values = [_gib(value) for value in found] if isinstance(found, list) else [None]
    known = tuple(value for value in values if value is not None)
    return (known, "") if len(known) == len(values) else ((), "it does not have a list of GiB")


def _gib(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number may be larger than any float; comparing costs nothing then.
    return float(value) if 0 <= value <= _MOST_GIB else None


def _other_task(folder: Path, task: str) -> Problem:
    message = f'is the folder of a run with task = "{printable(task)}"; this page is of trainings'
    fix = f"qvl eval report {printable(str(folder))}" if task == "eval" else "give the folder of a training"
    return Problem(where=printable(str(folder)), key="task", message=message, fix=fix)
