"""The steps of a run: batches in, metrics and checkpoints out, until the last step or a signal. Every rank runs it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mindspore as ms
from qvl_core.lora_table import COMPONENTS, is_factor
from qvl_core.model import Qwen25VL
from qvl_core.parallel.world import Json
from qvl_core.recipe.sections import TrainSection
from qvl_data import BatchIterator, batches

from qvl_train.bad_sample_file import totals_of
from qvl_train.evaluation import evaluate
from qvl_train.guarded_reports import GuardedReports
from qvl_train.interrupt import Interrupt
from qvl_train.job import Job
from qvl_train.memory import host_peak_gib
from qvl_train.meter import Meter
from qvl_train.profiling import step_profile
from qvl_train.reports import NOT_FINITE, Reports
from qvl_train.run_saves import RunSaves
from qvl_train.schedule import learning_rate
from qvl_train.snapshot import Contents
from qvl_train.step import NotFiniteError, StepResult, TrainStep
from qvl_train.stored_tensor import StoredTensor
from qvl_train.straggler import Stragglers
from qvl_train.time_table import TimeTable
from qvl_train.validation import is_due, left_out, validate

_DTYPE_NAMES = {ms.float32: "F32", ms.float16: "F16", ms.bfloat16: "BF16"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the steps ended: `signal_name` if a signal stopped them, else all are done."""

    step: int
    checkpoint: Path | None
    signal_name: str | None


def run_steps(job: Job, reports: Reports) -> Outcome:
    """Train from `first_step` to the end, or until a signal asks to stop; either way what was reached is saved."""
    train = job.recipe.train
    assert train is not None, "a recipe for training has [train]"
    step, saved, signal_name = job.first_step, None, None
    reports = GuardedReports(reports, go_on=train.save.on_error == "continue")
    stragglers = Stragglers(job.world.layout, cast("list[str]", job.world.exchange(socket.gethostname())))
    meter, table = _meter(job, train), TimeTable()
    clock = meter.clock

    def contents() -> Contents:
        # A run that was asked to stop is to go on, which takes the optimizer's state.
        return _contents(job, with_state=train.save.optimizer or signal_name is not None)

    with (
        Interrupt(is_alone=job.world.layout.world_size == 1) as interrupt,
        _batches(job) as source,
        RunSaves(job, train, reports, contents) as saves,
        step_profile(job.folder, train.log.profile, job.world, reports.note, total=job.steps) as profile,
    ):
        take_step = _train_step(job, train, meter, interrupt, saves.message)
        if step == 0:
            with table.between("validation", clock):
                signal_name = _validate(job, 0, reports, interrupt, signal_name)
        while step < job.steps and signal_name is None:
            job.world.phase = f"step {step + 1}"
            clock.switch("data")
            micro_batches = next(source)
            clock.switch("other")
            step += 1
            lr = _rate(train, step, job.steps)
            with table.between("profiling", clock):
                profile.before(step)
            with _told_if_not_finite(step, reports, saves):
                result = take_step(micro_batches, lr=lr, step=step)
            with table.between("saving", clock):
                saves.hear(result.messages)
            signal_name = result.signal_name
            with table.between("profiling", clock):
                profile.after(step)
            job.stamp("first step")
            row = _row(step, lr, result)
            table.add(row)
            _tell(job, row, result, reports, stragglers)
            with table.between("validation", clock):
                signal_name = _validate(job, step, reports, interrupt, signal_name)
            with table.between("evaluation", clock):
                signal_name = evaluate(job, step, reports, interrupt, signal_name)
            # The step that ends the run is saved below, once, and waited for.
            if step % train.save.every == 0 and step != job.steps and signal_name is None:
                with table.between("saving", clock):
                    saves.save(step)
        if step > job.first_step:
            with table.between("saving", clock):
                saved = saves.save_last(step)
        _report_memory(job, reports)
        saves.require_reported()
    for line in [*table.lines(), *totals_of(job.bad_samples, job.world)]:
        reports.note(line)
    return Outcome(step=step, checkpoint=saved, signal_name=signal_name)


@contextmanager
def _told_if_not_finite(step: int, reports: Reports, saves: RunSaves) -> Iterator[None]:
    """Before a NotFiniteError ends the run, leave a last row in the metrics and end the save that is under way."""
    try:
        yield
    except NotFiniteError as error:
        reports.write({"step": step, NOT_FINITE: str(error)})
        saves.end_early(error.messages)
        raise


def _batches(job: Job) -> BatchIterator:
    """Give the micro batches of this rank's replica, from where the run goes on."""
    return batches(
        job.data,
        recipe=job.recipe,
        consumed_samples=job.consumed_samples,
        dp_rank=job.world.place.dp,
        dp_size=job.world.layout.dp,
        bad_samples=job.bad_samples,
    )


def _tell(job: Job, row: Mapping[str, float], result: StepResult, reports: Reports, stragglers: Stragglers) -> None:
    """Keep and show what a step came to."""
    assert job.recipe.train is not None
    assert result.measures is not None, "there is a meter"
    step = int(row["step"])
    if step % job.recipe.train.log.every == 0 or step == job.steps:
        reports.write(row)
    reports.advance(
        step,
        loss=result.loss,
        step_time_s=row["step_time_s"],
        tokens_per_s=row["tokens_per_s"],
        mfu=row.get("mfu"),
    )
    for line in stragglers.see(result.measures.compute_s):
        reports.note(f"step {step}: {line}")


def _validate(job: Job, step: int, reports: Reports, interrupt: Interrupt, signal_name: str | None) -> str | None:
    """Validate where it is due; give the signal that has asked to stop by then, the same on every rank."""
    if not is_due(job, step):
        return signal_name
    if signal_name is not None:
        # The time until the process is killed is for saving.
        reports.note(left_out(step, signal_name))
        return signal_name
    return validate(job, step, reports, lambda: interrupt.signal_name)


def _meter(job: Job, train: TrainSection) -> Meter:
    lora = job.recipe.lora
    return Meter(
        job.world,
        job.recipe.spec,
        freeze=COMPONENTS if lora is not None else job.recipe.model.freeze,
        adapted=lora.components if lora is not None else (),
        peak_tflops=train.log.peak_tflops,
        padded_tokens=job.model.padded_tokens,
    )


def _train_step(
    job: Job, train: TrainSection, meter: Meter, interrupt: Interrupt, message: Callable[[], Json]
) -> TrainStep:
    return TrainStep(
        job.pipeline,
        job.optimizer,
        job.world,
        job.recipe.spec,
        clip_norm=train.optimizer.clip_norm,
        reduction=train.loss_reduction,
        meter=meter,
        lora=job.recipe.lora,
        asked_to_stop=lambda: interrupt.signal_name,
        message=message,
    )


def _rate(train: TrainSection, step: int, steps: int) -> float:
    return learning_rate(
        step,
        steps=steps,
        peak=train.optimizer.lr,
        minimum=train.schedule.min_lr,
        warmup=train.schedule.warmup,
        name=train.schedule.name,
    )


def _row(step: int, lr: float, result: StepResult) -> dict[str, float]:
    assert result.measures is not None
    return {
        "step": step,
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "lr": lr,
        "tokens": result.tokens,
        "loss_tokens": result.loss_tokens,
        "samples": result.samples,
        **result.measures.numbers,
    }


def _contents(job: Job, *, with_state: bool) -> Contents:
    state = job.optimizer.stored() if with_state else None
    return Contents(weights=stored_weights(job.model), optimizer=state)


def stored_weights(model: Qwen25VL) -> list[StoredTensor]:
    """List what this rank holds of what a checkpoint keeps, in table order: adapters only, where there are any."""
    return [
        StoredTensor(
            name=name, dtype=_DTYPE_NAMES[parameter.dtype], shape=tuple(parameter.shape), read=parameter.asnumpy
        )
        for name, parameter in model.named_parameters().items()
        if model.dropout is None or is_factor(name)
    ]


def _report_memory(job: Job, reports: Reports) -> None:
    """Tell every rank's largest resident memory so far, in rank order. Of the process, not of a device's memory."""
    reports.keep_memory(cast("list[float]", job.world.exchange(round(host_peak_gib(), 4))))
