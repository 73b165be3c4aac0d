"""`qvl run`: do what a recipe says, or show what would be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qvl_core.cli.parameters import RecipeFile, Settings
from qvl_core.errors import EXIT_DONE, OutputError, Problem, RecipeError, WeightsError

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions

NodeRank = Annotated[
    int | None,
    typer.Option(
        "--node-rank", metavar="N", min=0, help="Which of launch.nodes this machine is, from 0.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add `qvl run`."""

    @app.command("run")
    def run(
        context: typer.Context,
        recipe: RecipeFile,
        settings: Settings = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show what would be started, and start nothing.")
        ] = False,
        resume: Annotated[
            str,
            typer.Option(
                "--resume",
                metavar="auto|never|DIR",
                help="auto (default): go on where output.dir stopped. never: refuse if output.dir holds a run. "
                "DIR: go on from this checkpoint.",
            ),
        ] = "auto",
        reshard: Annotated[
            bool, typer.Option("--reshard", help="Load sharded weights of another layout: cut while loading.")
        ] = False,
        accept_changes: Annotated[
            bool,
            typer.Option(
                "--accept-changes",
                help="Go on although recipe, data or starting weights are not what the run began with: the differences "
                "are printed and kept in run.json.",
            ),
        ] = False,
        node_rank: NodeRank = None,
    ) -> int:
        """Run a recipe: fine-tune, evaluate or infer, as its task says."""
        from qvl_core.tasks import RunOptions

        debug = bool(context.obj)
        options = RunOptions(
            dry_run=dry_run,
            resume=resume,
            reshard=reshard,
            accept_changes=accept_changes,
            node_rank=node_rank,
            debug=debug,
        )
        return run_recipe(recipe, settings or [], options)


def run_recipe(path: str, settings: list[str], options: RunOptions) -> int:
    """Load and check the recipe, plan its start, and start it (or print the plan). Give the exit code."""
    from qvl_core.cli.inputs import require_inputs
    from qvl_core.launch_plan import launch_plan
    from qvl_core.recipe import load_recipe

    recipe = load_recipe(path, settings)
    _check_options(recipe, options)
    _warn(recipe)
    _require_fitting_weights(recipe, options)
    if options.dry_run:
        from qvl_core.cli.plan_text import plan_text

        plan = launch_plan(recipe, settings, _worker_options(options))
        print(plan_text(recipe, plan, options.node_rank))
        _print_memory(recipe)
        _print_missing(recipe)
        return EXIT_DONE
    from qvl_core.cli.launch import start, this_machine

    place = this_machine(recipe, options.node_rank)
    require_inputs(recipe)
    plan = launch_plan(recipe, settings, _worker_options(options), master=place.master)
    return start(recipe, plan, place, options)


def _check_options(recipe: Recipe, options: RunOptions) -> None:
    from pathlib import Path

    nodes = recipe.launch.nodes
    if options.node_rank is not None and options.node_rank >= nodes:
        message = f"is {options.node_rank}, launch.nodes is {nodes}: machines are numbered 0 to {nodes - 1}"
        raise RecipeError(Problem(where="command line", key="--node-rank", message=message))
    if options.resume not in ("auto", "never") and not Path(options.resume).is_dir():
        message = f"{options.resume} is neither auto nor never nor the folder of a checkpoint"
        there = sorted(str(path) for path in Path(recipe.output.dir).glob("step_*") if path.is_dir())
        fix = f"one of {', '.join(there[-5:])}, or leave --resume out" if there else "leave --resume out"
        raise OutputError(Problem(where="command line", key="--resume", message=message, fix=fix))


def _worker_options(options: RunOptions) -> list[str]:
    resume = ["--resume", options.resume] if options.resume != "auto" else []
    switches = {"--reshard": options.reshard, "--accept-changes": options.accept_changes}
    return [*resume, *(name for name, given in switches.items() if given)]


def _require_fitting_weights(recipe: Recipe, options: RunOptions) -> None:
    import sys

    from qvl_core.weights_fit import check_weights, reshard_note

    problems = [one for one in check_weights(recipe, reshard=options.reshard) if one.severity == "error"]
    if problems:
        raise WeightsError(problems)
    note = reshard_note(recipe) if options.reshard else ""
    if note:
        print(f"qvl: {note}", file=sys.stderr)


def _warn(recipe: Recipe) -> None:
    import sys

    for problem in recipe.warnings:
        print(problem.render(), file=sys.stderr)


def _print_memory(recipe: Recipe) -> None:
    """Say what the fullest rank would take, by the account of `qvl plan`."""
    from qvl_core.planner.plan import gib
    from qvl_core.planner.recipe_plan import memory_sentence, recipe_plan

    plan = recipe_plan(recipe)
    device, load = plan.job.device, plan.job.workload
    print(f"\nmemory (arithmetic, not measured)\n  {memory_sentence(plan)}, of {device.memory_gib:g} of {device.name}")
    print(f"  lengths: {load.source}")
    if load.note:
        print(f"  note: {load.note}")
    if gib(plan.memory) > device.memory_gib:
        print(f"  warning: it does not fit; `qvl plan {recipe.path}` finds layouts that do")


def _print_missing(recipe: Recipe) -> None:
    """Say what the real run would stop at: files and packages that are not here."""
    from qvl_core.cli.inputs import missing_inputs
    from qvl_core.errors import NotInstalledError
    from qvl_core.tasks import find_task, find_worker

    missing = missing_inputs(recipe)
    if missing:
        print("\nnot found here (the run itself needs it)")
        width = max(len(problem.key) for problem in missing)
        for problem in missing:
            print(f"  {problem.key:<{width}}  {problem.message.split(' does not exist')[0]}")
    try:
        (find_task if recipe.parallel.world_size == 1 else find_worker)(recipe.task)
    except NotInstalledError as error:
        print(f"\nnot installed here\n  {error}")
