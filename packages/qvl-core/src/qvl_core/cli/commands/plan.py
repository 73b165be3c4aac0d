"""`qvl plan`: memory and time of a recipe's model on so many devices, and the layouts that suit it best."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from qvl_core.cli.parameters import RecipeFile, Settings, finite
from qvl_core.errors import InputError, Problem

if TYPE_CHECKING:
    from qvl_core.planner.job import Job
    from qvl_core.planner.plan import Plan
    from qvl_core.planner.search import Shortfall
    from qvl_core.recipe import Recipe

HEADROOM_PERCENT = 10.0
_MOST_DEVICES = 65_536
_MOST_GIB = 1_000_000


class Format(str, Enum):
    """How the plans are written."""

    text = "text"
    json = "json"
    toml = "toml"


_Devices = Annotated[
    int | None,
    typer.Option("--devices", metavar="N", help="Devices; default: those of the recipe.", show_default=False),
]
_Memory = Annotated[
    float | None,
    typer.Option("--memory-gib", metavar="G", help="Memory of a device; default: the device's.", show_default=False),
]
_Top = Annotated[int, typer.Option("--top", metavar="K", min=1, max=100, help="Plans to show.")]
_Form = Annotated[
    Format, typer.Option("--format", help="text for people, json for programs, toml: the layout to paste.")
]
_Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Device whose facts count.", show_default=False)
]
_DeviceFile = Annotated[
    str | None,
    typer.Option(
        "--device-file", metavar="FILE", help="JSON with facts that replace shipped ones.", show_default=False
    ),
]
_DataReport = Annotated[
    str | None,
    typer.Option(
        "--data-report",
        metavar="FILE",
        help="Lengths of the data: what `qvl data check RECIPE --format json` printed; default: what it kept.",
        show_default=False,
    ),
]
_Headroom = Annotated[
    float,
    typer.Option("--headroom", metavar="PERCENT", min=0, max=90, callback=finite, help="Memory that plans leave free."),
]
_ShowAssumptions = Annotated[
    bool, typer.Option("--assumptions", help="List what all of it rests on, with sources and error bands.")
]


def register(app: typer.Typer) -> None:
    """Add `qvl plan`."""

    @app.command("plan")
    def plan(
        recipe: RecipeFile,
        settings: Settings = None,
        devices: _Devices = None,
        memory_gib: _Memory = None,
        top: _Top = 5,
        format: _Form = Format.text,  # noqa: A002 (the option's name)
        device: _Device = None,
        device_file: _DeviceFile = None,
        data_report: _DataReport = None,
        headroom: _Headroom = HEADROOM_PERCENT,
        show_assumptions: _ShowAssumptions = False,
    ) -> None:
        """Find the fastest layouts that fit: tensor, pipeline and data parallel, stages, recomputation, micro batch.

        Nothing is run: all of it is arithmetic, and nothing of it was measured on a device. Exit 2 if nothing fits.
        """
        from qvl_core.planner.devices import device_facts
        from qvl_core.planner.job import job_of
        from qvl_core.planner.memory import GIB
        from qvl_core.planner.recipe_plan import default_device
        from qvl_core.planner.report import as_values
        from qvl_core.planner.search import search, shortfall
        from qvl_core.recipe import load_recipe

        loaded = load_recipe(recipe, settings or ())
        facts = device_facts(device or default_device(loaded), device_file)
        job = job_of(loaded, facts, report=data_report)
        count = loaded.parallel.world_size if devices is None else devices
        memory = facts.memory_gib if memory_gib is None else memory_gib
        origin = (
            ("--memory-gib", "") if memory_gib is not None else (device_file or "", f"devices.{facts.name}.memory_gib")
        )
        _require(count, memory, origin)
        usable = memory * (1 - headroom / 100)
        _require_choices(job, loaded, count)
        job = _placed(job, loaded, count)
        found = search(job, count, usable * GIB, top=top)
        short = None if found else shortfall(job, count, usable * GIB)
        if format is Format.json:
            values = as_values(found[0].job if found else job, count, memory, usable, found, short)
            print(json.dumps({"recipe": loaded.path, **values}, indent=2, ensure_ascii=False))
        if short is not None:
            raise InputError(_too_small(loaded, count, memory, usable, short))
        if format is Format.toml:
            print(_toml(loaded, found[0], memory))
        elif format is Format.text:
            _print(found[0].job, loaded, count, memory, headroom, found, with_assumptions=show_assumptions)


def _require(devices: int, memory_gib: float, origin: tuple[str, str]) -> None:
    """Raise InputError for numbers beyond what is planned; `origin`: where the memory is stated, and its key."""
    problems = []
    if not 1 <= devices <= _MOST_DEVICES:
        problems.append(
            Problem(
                where="--devices",
                message=f"is {devices}, not a number from 1 to {_MOST_DEVICES:,}",
                fix="--devices 8",
            )
        )
    if not 0 < memory_gib <= _MOST_GIB:
        where, key = origin
        problems.append(
            Problem(
                where=where,
                key=key,
                message=f"is {memory_gib:,.10g}, not a number above 0 and up to {_MOST_GIB:,}",
                fix="--memory-gib 64",
            )
        )
    if problems:
        raise InputError(problems)


def _placed(job: Job, recipe: Recipe, devices: int) -> Job:
    """Give the job on the machines that are known: one of a CPU run, those of a recipe for as many devices on several.

    On all others each plan has the machines that suit it.
    """
    from dataclasses import replace

    from qvl_core.planner.job import on_one_machine

    if recipe.launch.device == "cpu":
        return on_one_machine(job, devices) if job.device.name == "cpu" else job
    return replace(job, is_placed=recipe.launch.nodes > 1 and devices == recipe.parallel.world_size)


def _require_choices(job: Job, recipe: Recipe, devices: int) -> None:
    """Raise InputError where no layout makes up so many devices."""
    from qvl_core.planner.search import choices

    if not any(True for _ in choices(job, devices)):
        raise InputError(_impossible(job, recipe, devices))


def _impossible(job: Job, recipe: Recipe, devices: int) -> Problem:
    """Say that no tp, pp and dp make up so many devices with this batch and model."""
    from qvl_core.layout_rules import legal_tensor_degrees
    from qvl_core.planner.search import nearest_devices

    degrees = ", ".join(map(str, legal_tensor_degrees(job.spec)))
    batch = f", and a dp that divides train.global_batch = {job.global_batch}" if job.task == "train" else ""
    return Problem(
        where=recipe.path,
        key="--devices",
        message=f"is {devices}, which no layout of {job.spec.name} makes up: tp is one of {degrees}, pp at most "
        f"{job.spec.vision.depth + job.spec.text.num_layers}{batch}",
        fix=f"--devices {nearest_devices(job, devices)}",
    )


def _too_small(recipe: Recipe, devices: int, memory_gib: float, usable_gib: float, short: Shortfall) -> Problem:
    """Say what the smallest memory, and the fewest devices, are that would do."""
    from math import ceil

    from qvl_core.planner.plan import gib
    from qvl_core.planner.report import recompute_text, stages_text

    count = "1 device" if devices == 1 else f"{devices} devices"
    lines = [f"nothing fits: {count} of {memory_gib:g} GiB, {usable_gib:.4g} of them to be used"]
    fixes = []
    if short.least is not None:
        layout, need = short.least.layout, gib(short.least.memory)
        lines.append(
            f"the least that any layout takes is {need:.1f} GiB: tp {layout.tp}, pp {layout.pp}, dp {layout.dp}, "
            f"vision {stages_text(layout.vision_stages)}, text {stages_text(layout.text_stages)}, "
            f"recompute {recompute_text(short.least)}"
        )
        fixes.append(f"--memory-gib {ceil(10 * need * memory_gib / usable_gib + 0.1) / 10:g}")
    if short.fewest is not None:
        layout = short.fewest.layout
        perhaps = "" if short.all_tried else ", perhaps fewer (not all numbers were tried)"
        lines.append(
            f"with this memory {layout.world_size} devices would do{perhaps}: tp {layout.tp}, pp {layout.pp}, "
            f"dp {layout.dp}, {gib(short.fewest.memory):.1f} GiB"
        )
        fixes.append(f"--devices {layout.world_size}")
    elif short.least is not None:
        number = "no number of devices" if short.all_tried else "none of the numbers of devices that were tried"
        lines.append(f"{number} would do with this memory")
    return Problem(
        where=recipe.path,
        key="--memory-gib",
        message="\n".join(lines),
        fix="\nor ".join(fixes) or "lower data.sequence_length, or train adapters: [train.lora]",
    )


def _toml(recipe: Recipe, plan: Plan, memory_gib: float) -> str:
    from qvl_core.planner.report import as_toml

    launch = recipe.launch
    # All processes of a CPU run are on one machine, whatever device is planned for.
    nodes, each = (1, plan.layout.world_size) if launch.device == "cpu" else plan.machines
    settings = []
    if recipe.train is not None and plan.micro_batch != recipe.train.micro_batch:
        settings.append(f"train.micro_batch={plan.micro_batch}")
    if (nodes, each) != (launch.nodes, launch.devices_per_node):
        settings += [f"launch.nodes={nodes}", f"launch.devices_per_node={each}"]
    return as_toml(plan, memory_gib, settings=settings)


def _print(
    job: Job,
    recipe: Recipe,
    devices: int,
    memory_gib: float,
    headroom: float,
    plans: tuple[Plan, ...],
    *,
    with_assumptions: bool,
) -> None:
    from qvl_core.cli import plan_tables as tables
    from qvl_core.cli import terminal
    from qvl_core.planner.report import plans_head, plans_row, reasons, uneven_notes

    target = terminal.console()
    nodes, _ = plans[0].machines
    place = f"{devices} x {job.device.name}{f' on {nodes} machines' if nodes > 1 else ''}, {memory_gib:g} GiB each"
    target.print(f"{recipe.path}: {job.spec.name} on {place}", style="bold")
    for line in uneven_notes(plans[0]):
        target.print(f"note: {line}")
    tables.print_lengths(target, job)
    kept = f"plans leave {headroom:g} % of the memory free"
    target.print(f"arithmetic, not measured on a device; {kept}; --assumptions lists sources and error bands")
    terminal.print_heading(target, f"The best {'plan' if len(plans) == 1 else f'{len(plans)} plans'}")
    rows = [plans_row(number, plan) for number, plan in enumerate(plans, 1)]
    tables.print_columns(target, plans_head(job), rows, left=("vision", "text", "recompute"))
    target.print()
    for number, plan in enumerate(plans, 1):
        first, *rest = reasons(plan, memory_gib, plans[0])
        target.print(f"{number}. {first}")
        for line in rest:
            target.print(f"   {line}")
    tables.print_stages(target, plans[0], "The first plan, stage by stage")
    terminal.print_heading(target, "To paste into the recipe")
    # Folded, a comment's rest would be a line of TOML: the terminal wraps what is too long, and copies it whole.
    target.print(_toml(recipe, plans[0], memory_gib), soft_wrap=True)
    if with_assumptions:
        tables.print_assumptions(target, job)
