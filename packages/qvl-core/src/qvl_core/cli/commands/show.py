"""`qvl show`: what a recipe resolves to, and what that means for each pipeline stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qvl_core.cli.parameters import RecipeFile, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from qvl_core.recipe import Recipe


def register(app: typer.Typer) -> None:
    """Add `qvl show`."""

    @app.command("show")
    def show(
        recipe: RecipeFile,
        settings: Settings = None,
        params: Annotated[bool, typer.Option("--params", help="Print the whole parameter table too.")] = False,
    ) -> None:
        """Show the resolved values of a recipe with their origin, and its stages, parameters and bytes."""
        from qvl_core.cli import terminal
        from qvl_core.recipe import load_recipe

        loaded = load_recipe(recipe, settings or ())
        target = terminal.console()
        _print_values(target, loaded)
        _print_stages(target, loaded)
        _print_plan(target, loaded)
        _print_arithmetic(target, loaded)
        if params:
            _print_parameters(target, loaded)
        if loaded.warnings:
            from qvl_core.cli.problem_formats import as_text

            terminal.print_heading(target, "Warnings")
            target.print(as_text(loaded.warnings))


def _print_values(target: Console, recipe: Recipe) -> None:
    from qvl_core.cli import terminal
    from qvl_core.cli.resolved_values import value_rows

    target.print(f"{recipe.path}: {recipe.task} of {recipe.spec.name}", style="bold")
    base = next((origin.file for origin in recipe.origins.values() if origin.kind == "extends"), "")
    if base:
        target.print(f"extends  {base}")
    target.print(f"digest   {recipe.digest()}")
    target.print()
    terminal.print_table(target, ("key", "value", "origin"), value_rows(recipe), whole=("key", "origin"))


def _print_stages(target: Console, recipe: Recipe) -> None:
    from qvl_core.cli import terminal
    from qvl_core.cli.arithmetic import rows_of
    from qvl_core.params import parameter_count

    layout = recipe.parallel
    terminal.print_heading(
        target,
        f"Stages: tp {layout.tp} x pp {layout.pp} x dp {layout.dp} = {layout.world_size} "
        f"{'process' if layout.world_size == 1 else 'processes'} on {recipe.launch.device}",
    )
    rows = rows_of(recipe)
    held = [
        (
            str(row.stage),
            terminal.layers_text(row.vision_layers),
            terminal.layers_text(row.text_layers),
            ", ".join(row.parts) or "-",
        )
        for row in rows
    ]
    terminal.print_table(target, ("stage", "vision layers", "text layers", "and"), held, right=("stage",))
    target.print()
    numbers = ("parameters", "trainable", "on each rank", "weights on each rank")
    counts = [
        (
            str(row.stage),
            f"{row.parameters:,}",
            f"{row.trainable:,}",
            f"{row.rank_parameters:,}",
            terminal.bytes_text(row.rank_bytes),
        )
        for row in rows
    ]
    terminal.print_table(target, ("stage", *numbers), counts, right=("stage", *numbers))
    target.print()
    target.print(f"model: {parameter_count(recipe.spec):,} parameters")
    if layout.tp > 1:
        target.print(f"the {layout.tp} tensor ranks of a stage hold equally much")
    if recipe.lora:
        target.print("trainable: the adapters, which come on top of the parameters; all else is frozen")
    elif recipe.spec.text.tie_word_embeddings and layout.pp > 1:
        target.print("the tied embedding lies on the first and the last text stage and counts on both")


def _print_plan(target: Console, recipe: Recipe) -> None:
    """Print what the stages take of memory and time, by the same account as `qvl plan`."""
    from qvl_core.cli.plan_tables import print_lengths, print_stages
    from qvl_core.planner.plan import gib
    from qvl_core.planner.recipe_plan import memory_sentence, recipe_plan
    from qvl_core.planner.report import clock_notes, duration_text

    plan = recipe_plan(recipe)
    job = plan.job
    print_stages(target, plan, "Plan (arithmetic, not measured)")
    target.print()
    target.print(memory_sentence(plan))
    idle = f", {plan.bubble:.1%} of the pipeline idle" if recipe.task == "sft" else ""
    target.print(f"{duration_text(plan)}{idle}")
    for line in clock_notes(plan):
        target.print(line)
    print_lengths(target, job)
    where = f"{job.device.name} of {job.device.memory_gib:g} GiB"
    if gib(plan.memory) > job.device.memory_gib:
        target.print(f"warning: that is more than a {where} has: `qvl plan {recipe.path}` finds layouts that fit")
    else:
        target.print(f"planned for {where}; `qvl plan {recipe.path}` compares layouts")


def _print_arithmetic(target: Console, recipe: Recipe) -> None:
    from qvl_core.cli import terminal
    from qvl_core.cli.arithmetic import training_lines

    lines = training_lines(recipe)
    if lines:
        terminal.print_heading(target, "Training")
        width = max(len(name) for name, _ in lines)
        for name, text in lines:
            target.print(f"{name:<{width}}  {text}")


def _print_parameters(target: Console, recipe: Recipe) -> None:
    from qvl_core.cli import terminal
    from qvl_core.params import parameter_table

    tp = recipe.parallel.tp
    terminal.print_heading(target, f"Parameters (tp {tp})")
    rows = [
        (
            parameter.name,
            _shape(parameter.shape),
            " ".join(str(stage) for stage in parameter.stages),
            parameter.shard,
            *([_shape(parameter.local_shape(tp))] if tp > 1 else []),
        )
        for parameter in parameter_table(recipe.spec, recipe.parallel)
    ]
    head = ("name", "shape", "stage", "shard", *(["on a rank"] if tp > 1 else []))
    for line in terminal.aligned([head, *rows]):
        target.print(line, soft_wrap=True)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(extent) for extent in shape)
