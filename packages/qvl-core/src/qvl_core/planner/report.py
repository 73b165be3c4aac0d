"""Plans as text, JSON and TOML: what `qvl plan` prints. Pure: gives lines and values, prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from qvl_core.planner.assumptions import assumptions
from qvl_core.planner.job import Job
from qvl_core.planner.plan import Plan, StagePlan, gib, plan_values
from qvl_core.planner.search import Shortfall

SCHEMA = 1
# The account and the clock may differ by so much without a word.
_TOLD_FROM = 0.02
# Two plans whose times by the clock differ by less are as fast as each other.
_AS_FAST = 0.01
_WAITING = ("in_flight",)
# Stages, each of which has a row of its own.
_MOST_ROWS = 16
# Columns of the memory table: heading, and the fields of MemoryParts that add up to it.
MEMORY_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weights", ("weights",)),
    ("gradients", ("gradients", "new_gradients")),
    ("optimizer", ("master", "moments")),
    ("vision", ("vision", "merger")),
    ("text", ("text",)),
    ("logits", ("logits",)),
    ("in flight", _WAITING),
    ("KV cache", ("kv_cache",)),
    ("communication", ("communication",)),
    ("base", ("base",)),
    ("evaluation", ("evaluation",)),
)


def plans_head(job: Job) -> tuple[str, ...]:
    """Give the heading of the table of plans."""
    work, time, rate = (
        ("micro batch", "s/step", "samples/s") if job.task == "train" else ("answers at once", "s/batch", "answers/s")
    )
    return ("#", "tp", "pp", "dp", "vision", "text", "recompute", work, "GiB", time, rate, "bubble")


def duration_text(plan: Plan) -> str:
    """Give the time of a step, or of a batch of answers of all replicas, as part of a sentence."""
    if plan.job.task == "train":
        return f"about {plan.step_s:.3g} s a step"
    if plan.job.is_refused:
        return f"no time: prompts of {plan.job.workload.longest:,} tokens are refused"
    count = plan.samples_per_step
    return f"about {plan.step_s:.3g} s for {count} answer{'' if count == 1 else 's'} of {plan.job.new_tokens:,} tokens"


def plans_row(number: int, plan: Plan) -> tuple[str, ...]:
    """Give a plan as a row of the table of plans."""
    layout = plan.layout
    return (
        str(number),
        str(layout.tp),
        str(layout.pp),
        str(layout.dp),
        stages_text(layout.vision_stages),
        stages_text(layout.text_stages),
        recompute_text(plan),
        str(plan.at_once),
        f"{gib(plan.memory):.1f}",
        "-" if plan.job.is_refused else f"{plan.step_s:.3g}",
        "-" if plan.job.is_refused else f"{plan.samples_per_s:.3g}",
        f"{plan.bubble:.1%}",
    )


def memory_rows(plan: Plan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Give heading and rows of memory by stage, GiB; columns that are zero everywhere are left out.

    Of many stages, neighbours that differ in what waits alone share a row, which is that of the first, the fullest.
    """
    columns = [
        (name, parts)
        for name, parts in MEMORY_COLUMNS
        if any(getattr(stage.memory, part) for stage in plan.stages for part in parts)
    ]
    rows: list[tuple[str, ...]] = []
    alike: tuple[str, ...] = ()
    first = 0
    for stage in plan.stages:
        held = (f"{stage.vision}v {stage.text}t", *(_gib(stage, parts) for _, parts in columns if parts != _WAITING))
        if len(plan.stages) > _MOST_ROWS and held == alike:
            # The first of them is the fullest: more micro batches wait there.
            rows[-1] = (f"{first}-{stage.stage}", *rows[-1][1:])
            continue
        first, alike = stage.stage, held
        cells = (_gib(stage, parts) for _, parts in columns)
        rows.append((str(first), held[0], *cells, f"{gib(stage.memory.total):.2f}"))
    return ("stage", "layers", *(name for name, _ in columns), "all"), rows


def _gib(stage: StagePlan, parts: Sequence[str]) -> str:
    return f"{gib(sum(getattr(stage.memory, part) for part in parts)):.2f}"


def time_rows(plan: Plan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Give heading and rows of time by stage, milliseconds; neighbours that take equally long share a row."""
    rows: list[tuple[str, ...]] = []
    first = 0
    for stage in plan.stages:
        numbers = (
            stage.forward.total,
            stage.backward.total,
            stage.forward.compute + stage.backward.compute,
            stage.forward.starting + stage.backward.starting,
            stage.forward.communication + stage.backward.communication,
            stage.replicas_s,
            stage.update_s,
        )
        cells = tuple(f"{seconds * 1e3:.1f}" for seconds in numbers)
        if rows and rows[-1][1:] == cells:
            rows[-1] = (f"{first}-{stage.stage}", *cells)
        else:
            first = stage.stage
            rows.append((str(first), *cells))
    second = "backward" if plan.job.task == "train" else "answer"
    return ("stage", "forward", second, "compute", "starting", "communication", "replicas", "optimizer"), rows


def reasons(plan: Plan, limit_gib: float, best: Plan | None = None) -> list[str]:
    """Say why a plan is where it is: what its time goes to, how full it is, and what it loses to the best one."""
    shares = sorted(plan.shares.items(), key=lambda pair: -pair[1])
    full = gib(plan.memory)
    spent = ", ".join(f"{share:.0%} {name}" for name, share in shares if share >= 0.005)
    lines = [
        f"time of stage {plan.slowest}, the slowest: {spent}",
        f"fullest is stage {plan.fullest}: {full:.1f} GiB, {full / limit_gib:.0%} of {limit_gib:g}",
    ]
    if best is not None and best is not plan:
        slower = best.samples_per_s / plan.samples_per_s - 1
        mine, theirs = _seconds(plan), _seconds(best)
        loss = max(mine, key=lambda name: mine[name] - theirs[name])
        lines.append(f"{slower:.1%} slower than the first, mostly {loss}")
    return [*lines, *machine_notes(plan), *clock_notes(plan, best), *loss_notes(plan)]


def machines_text(plan: Plan) -> str:
    """Give the machines of a plan and the devices on each in words."""
    nodes, each = plan.machines
    devices = f"{each} device{'' if each == 1 else 's'}"
    return f"{nodes} machines with {devices} each" if nodes > 1 else f"one machine with {devices}"


def machine_notes(plan: Plan) -> list[str]:
    """Say where machines are not whole, and where tensor groups, which talk most, lie over several."""
    notes, whole = [], plan.job.whole_machine
    if whole is not None:
        notes.append(f"on {machines_text(plan)}, of {whole}")
    if plan.has_far_tensors:
        notes.append(f"tensor groups of {plan.layout.tp} lie over several machines: their sums take the link between")
    return notes


def uneven_notes(plan: Plan) -> list[str]:
    """Say where a number of devices fills no whole machines: more may be needed than one would think."""
    devices, whole = plan.layout.world_size, plan.job.whole_machine
    if whole is None or devices % whole == 0:
        return []
    below = devices // whole * whole
    more = f"--devices {below} or {below + whole} would"
    return [f"{devices} devices do not fill machines of {whole}: the first plan is on {machines_text(plan)}; {more}"]


def clock_notes(plan: Plan, first: Plan | None = None) -> list[str]:
    """Say where the clock of 1F1B gives another time of a step than the account by which plans are compared.

    Beside another plan `first`, its time by the clock is said too, also where that alone differs from its account.
    """
    other = first if first is not None and first is not plan else None
    if not _is_lopsided(plan) and (other is None or not _is_lopsided(other)):
        return []
    off = f"{plan.clock_s / plan.step_s - 1:+.1%}" + (": the stages are lopsided" if _is_lopsided(plan) else "")
    notes = [f"by the clock of 1F1B a step takes {plan.clock_s:.3g} s, {off}"]
    if other is not None:
        slower = plan.clock_s / plan.samples_per_step / (other.clock_s / other.samples_per_step) - 1
        beside = (
            "as fast as" if abs(slower) < _AS_FAST else f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'} than"
        )
        notes.append(f"by that clock {beside} the first, which takes {other.clock_s:.3g} s")
    return notes


def _is_lopsided(plan: Plan) -> bool:
    return abs(plan.clock_s / plan.step_s - 1) >= _TOLD_FROM


def loss_notes(plan: Plan) -> list[str]:
    """Say where a plan changes what is learned: another micro batch, with a loss that depends on it."""
    if not plan.job.is_loss_of_micro_batches or plan.micro_batch == plan.job.micro_batch:
        return []
    sizes = f"train.micro_batch is {plan.micro_batch} instead of {plan.job.micro_batch}"
    reduction = 'train.loss_reduction = "micro_batch" weighs micro batches alike'
    return [f'changes the losses: {sizes}, and {reduction} ("token" and "sample" do not depend on it)']


def _seconds(plan: Plan) -> dict[str, float]:
    """Give seconds a sample by what they go to, so that plans of different batches compare."""
    return {name: share / plan.samples_per_s for name, share in plan.shares.items()}


def as_values(
    job: Job,
    devices: int,
    memory_gib: float,
    usable_gib: float,
    plans: Sequence[Plan],
    short: Shortfall | None = None,
) -> dict[str, Any]:
    """Give everything as values that JSON has; `would_fit` is null where something fits."""
    return {
        "schema": SCHEMA,
        "model": job.spec.name,
        "task": job.task,
        "devices": devices,
        "device": job.device.name,
        "memory_gib": memory_gib,
        "usable_gib": round(usable_gib, 3),
        "global_batch": job.global_batch,
        "data": {**asdict(job.workload)},
        "plans": [{**plan_values(plan), "reasons": reasons(plan, memory_gib, plans[0])} for plan in plans],
        "would_fit": short
        and {
            "least_memory": _values(short.least),
            "fewest_devices": _values(short.fewest),
            "all_tried": short.all_tried,
        },
        "assumptions": [asdict(one) for one in assumptions(job)],
    }


def _values(plan: Plan | None) -> dict[str, Any] | None:
    return plan_values(plan) if plan is not None else None


def as_toml(plan: Plan, memory_gib: float, *, settings: Sequence[str]) -> str:
    """Give the `[layout]` of a plan, with the settings that the recipe has to have beside it in a comment."""
    layout = plan.layout
    recompute = plan.recompute_value()
    devices = f"{layout.world_size} device{'' if layout.world_size == 1 else 's'}"
    needs = f"{gib(plan.memory):.1f} of {memory_gib:g} GiB, {duration_text(plan)}"
    lines = [f"# {devices}, {needs} (qvl plan, not measured)"]
    if settings:
        lines.append("# goes with " + " ".join(f"--set {setting}" for setting in settings))
    lines += [f"# {note}" for note in loss_notes(plan)]
    lines += [
        "[layout]",
        f"tp = {layout.tp}",
        f"pp = {layout.pp}",
        f"dp = {layout.dp}",
        f"vision_stages = {list(layout.vision_stages)}",
        f"text_stages = {list(layout.text_stages)}",
        f"zero1 = {str(plan.zero1).lower()}",
        "recompute = " + (f'"{recompute}"' if isinstance(recompute, str) else str(recompute).replace("'", '"')),
    ]
    return "\n".join(lines)


def stages_text(stages: Sequence[int]) -> str:
    """Give stage lists with repetitions counted: (32, 0, 0, 0) -> `32 3x0`."""
    runs: list[list[int]] = []
    for count in stages:
        if runs and runs[-1][1] == count:
            runs[-1][0] += 1
        else:
            runs.append([1, count])
    return " ".join(str(count) if times == 1 else f"{times}x{count}" for times, count in runs)


def recompute_text(plan: Plan) -> str:
    """Give what is recomputed in a word or two."""
    value = plan.recompute_value()
    return value if isinstance(value, str) else " ".join(value)
