"""The launch plan as text: what `qvl run --dry-run` prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from qvl_core.cli.terminal import aligned, layers_text
from qvl_core.launch_plan import LaunchPlan, RankPlace

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

RANK_COLUMNS = ("rank", "node", "device", "pp", "dp", "tp", "vision layers", "text layers")


def plan_text(recipe: Recipe, plan: LaunchPlan, node_rank: int | None = None) -> str:
    """Give the whole plan, or with `node_rank` the command and ranks of that machine only."""
    parts = (_head(recipe, plan), _variables(plan), _commands(plan, node_rank), _ranks(plan, node_rank))
    return "\n\n".join("\n".join(lines) for lines in parts)


def rank_rows(ranks: Sequence[RankPlace]) -> list[tuple[str, ...]]:
    """Give the cells of the rank table; the ranks of one tensor group on one machine share a row: `0-7`."""
    rows: list[tuple[str, ...]] = []
    for _, group in groupby(ranks, key=lambda rank: (rank.node, rank.place.pp, rank.place.dp)):
        places = list(group)
        first, last = places[0], places[-1]
        rows.append(
            (
                _span(first.rank, last.rank),
                str(first.node),
                _span(first.device, last.device),
                str(first.place.pp),
                str(first.place.dp),
                _span(first.place.tp, last.place.tp),
                layers_text(first.vision_layers),
                layers_text(first.text_layers),
            )
        )
    return rows


def _head(recipe: Recipe, plan: LaunchPlan) -> Iterator[str]:
    layout = plan.layout
    processes = _count(plan.world_size, "process", "es")
    nodes = _count(recipe.launch.nodes, "machine")
    yield "dry run: nothing is started and nothing is written"
    yield ""
    yield f"recipe    {recipe.path}: {recipe.task} of {recipe.spec.name}"
    yield f"digest    {recipe.digest()}"
    random = " (config and tokenizer only; random weights)" if recipe.weights.init == "random" else ""
    yield f"weights   {recipe.weights.source}{random}"
    yield f"output    {recipe.output.dir}"
    yield f"start     {processes} on {nodes}, {recipe.launch.device}, {_how(plan)}"
    yield f"layout    tp {layout.tp} x pp {layout.pp} x dp {layout.dp}"


def _how(plan: LaunchPlan) -> str:
    return "in this process" if plan.method == "in process" else f"by {plan.method}"


def _variables(plan: LaunchPlan) -> Iterator[str]:
    yield "environment of every process"
    width = max((len(f"{one.name}={one.value}") for one in plan.environment), default=0)
    for variable in plan.environment:
        # A long value must not push the origins of the others off the screen.
        yield f"  {f'{variable.name}={variable.value}':<{min(width, 60)}}  {variable.origin}"


def _commands(plan: LaunchPlan, node_rank: int | None) -> Iterator[str]:
    if plan.method == "in process":
        yield "command"
        yield f"  {shlex.join(plan.nodes[0].command)}"
        return
    shown = plan.nodes[:1] if node_rank is None else [plan.nodes[node_rank]]
    for node in shown:
        yield f"command on machine {node.node}" if len(plan.nodes) > 1 else "command"
        yield from _wrapped(node.command)
    if node_rank is None and len(plan.nodes) > 1:
        last = len(plan.nodes) - 1
        others = "machine 1" if last == 1 else f"machines 1 to {last}"
        yield f"the same on {others}, with --node_rank and --log_dir of the machine (see it with --node-rank N)"


def _wrapped(command: Sequence[str]) -> Iterator[str]:
    """Break a command into lines a shell joins again: its own options one a line, then the worker's command."""
    start = command.index("python")
    program = [shlex.quote(word) for word in command[:start]]
    lines = program if program[0] == "msrun" else [" ".join(program)]
    lines = [*lines, shlex.join(command[start:])]
    for index, line in enumerate(lines):
        yield ("  " if index == 0 else "    ") + line + (" \\" if index < len(lines) - 1 else "")


def _ranks(plan: LaunchPlan, node_rank: int | None) -> Iterator[str]:
    ranks = [rank for rank in plan.ranks if node_rank is None or rank.node == node_rank]
    yield "ranks"
    yield from (f"  {line}" for line in aligned([RANK_COLUMNS, *rank_rows(ranks)]))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" + ("" if number == 1 else plural)
