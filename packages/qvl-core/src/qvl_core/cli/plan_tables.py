"""What `qvl plan` and `qvl show` print of a plan: lengths, stages, and what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qvl_core.planner.job import Job
    from qvl_core.planner.plan import Plan


def print_lengths(target: Console, job: Job) -> None:
    """Print where the lengths of samples come from, and why not from data that were looked at once."""
    target.print(f"lengths: {job.workload.source}")
    if job.workload.note:
        target.print(f"note: {job.workload.note}")


def print_stages(target: Console, plan: Plan, title: str) -> None:
    """Print memory and time of every stage of a plan; `qvl show` prints the same."""
    from qvl_core.cli import terminal
    from qvl_core.planner.report import machine_notes, memory_rows, time_rows

    terminal.print_heading(target, f"{title}: GiB on each rank")
    head, rows = memory_rows(plan)
    print_columns(target, head, rows)
    if any("-" in row[0] for row in rows):
        target.print(
            "of stages in one row the first is the fullest: each one after it has fewer micro batches in flight"
        )
    unit = "one micro batch; replicas and optimizer once a step"
    target.print()
    target.print(f"milliseconds for {unit if plan.job.task == 'train' else 'one batch of answers'}")
    head, rows = time_rows(plan)
    print_columns(target, head, rows)
    for line in machine_notes(plan):
        target.print(f"note: {line}")


def print_columns(
    target: Console, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()
) -> None:
    """Print a table of numbers; where the terminal is too narrow, as several with the first column in each."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    part: list[int] = []
    for column in range(1, len(head)):
        if part and widths[0] + sum(3 + widths[one] for one in (*part, column)) > target.width:
            _print_part(target, head, rows, part, left)
            target.print()
            part = []
        part.append(column)
    _print_part(target, head, rows, part, left)


def _print_part(
    target: Console, head: Sequence[str], rows: Sequence[Sequence[str]], part: Sequence[int], left: Sequence[str]
) -> None:
    from qvl_core.cli import terminal

    shown = [0, *part]
    columns = tuple(head[one] for one in shown)
    cells = [tuple(row[one] for one in shown) for row in rows]
    numbers = tuple(name for name in columns if name not in left)
    terminal.print_table(target, columns, cells, right=numbers, whole=numbers)


def print_assumptions(target: Console, job: Job) -> None:
    """Print what plans rest on."""
    from qvl_core.cli import terminal
    from qvl_core.planner.assumptions import assumptions

    terminal.print_heading(target, "Assumptions")
    rows = [(one.about, one.name, one.value, one.source, one.band) for one in assumptions(job)]
    terminal.print_table(target, ("about", "what", "value", "source", "error band"), rows)
