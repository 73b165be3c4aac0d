"""Evaluations during training: when they are due, and where what they give is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvl_core.evaluators import is_due

if TYPE_CHECKING:
    from qvl_train.interrupt import Interrupt
    from qvl_train.job import Job
    from qvl_train.reports import Reports


def evaluate(job: Job, step: int, reports: Reports, interrupt: Interrupt, signal_name: str | None) -> str | None:
    """Evaluate where it is due, with all ranks; give the signal that has asked to stop by then, the same on each."""
    if job.evaluator is None or not is_due(job.recipe, step, job.steps):
        return signal_name
    if signal_name is not None:
        # The time until the process is killed is for saving.
        reports.note(f"step {step}: not evaluated, {signal_name} asked to stop")
        return signal_name
    job.world.phase = f"evaluation after step {step}"
    found = job.evaluator.measure(
        job.model, job.world, step=step, show=reports.validating, asked_to_stop=lambda: interrupt.signal_name
    )
    if not found.is_complete:
        reports.note(f"step {step}: not evaluated to the end, {found.signal_name} asked to stop")
        return found.signal_name
    reports.write({"step": step, **found.numbers})
    reports.keep_answers(step, found.answers)
    reports.note(found.note)
    return found.signal_name
