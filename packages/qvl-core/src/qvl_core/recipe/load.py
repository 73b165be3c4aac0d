"""Load a recipe: read, extend, override, validate, check, derive. Either a complete Recipe or every problem at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from qvl_core.errors import Problem, RecipeError
from qvl_core.layout import Layout
from qvl_core.recipe.cross_checks import check_against_spec, check_recipe
from qvl_core.recipe.derive import (
    Devices,
    check_training_layout,
    find_devices,
    find_layout,
    find_spec,
    with_fitting_stages,
)
from qvl_core.recipe.draft import Draft, dotted
from qvl_core.recipe.environment_rules import sort_environment
from qvl_core.recipe.merge import Merged, merge_file, merge_overrides
from qvl_core.recipe.overrides import parse_overrides
from qvl_core.recipe.positions import KeyPath
from qvl_core.recipe.schema import Origin, Recipe, Resolution
from qvl_core.recipe.toml_file import TomlFile, odd_values, read_toml
from qvl_core.recipe.wording import odd_value_problems, schema_problems, shown
from qvl_core.specs.model_spec import ModelSpec

_LINE = re.compile(r"(.*):(\d+)")


@dataclass(kw_only=True)
class _Findings:
    """What loading has found so far: problems, the keys that they make unusable, and derived parts."""

    problems: list[Problem] = field(default_factory=list)
    wrong: set[KeyPath] = field(default_factory=set)
    recipe: Recipe | None = None
    spec: ModelSpec | None = None
    layout: Layout | None = None
    devices: Devices | None = None

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]


def load_recipe(path: str | PathLike[str], overrides: Iterable[str] = ()) -> Recipe:
    """Give the recipe of a TOML file with everything filled in that it leaves open.

    `overrides` are the texts of `--set`: `KEY=VALUE` with VALUE as in TOML, or bare text; `KEY=` takes a stated value
    back. Where one of steps and epochs (name and config, fraction and path) is overridden, the other one gives way.
    Paths in a recipe are relative to the working directory, `extends` to the file; none has to exist.
    Raises RecipeError with every problem; warnings are in `recipe.warnings`.
    """
    merged, problems = _read_layers(os.fspath(path), overrides)
    findings = _Findings(problems=problems)
    values = _validate(merged, findings)
    _check(Draft(values, findings.wrong), merged, findings)
    findings.problems.sort(key=_place)
    if findings.errors or findings.recipe is None:
        raise RecipeError(findings.problems)
    return _complete(findings, merged)


def _read_layers(path: str, override_texts: Iterable[str]) -> tuple[Merged, list[Problem]]:
    overrides, problems = parse_overrides(override_texts)
    merged = Merged()
    try:
        toml = read_toml(path)
        if (base := _read_base(toml)) is not None:
            merge_file(merged, base, "extends")
    except RecipeError as error:
        raise RecipeError((*error.problems, *problems)) from None
    merge_file(merged, toml, "recipe")
    return merged, [*problems, *merge_overrides(merged, overrides)]


def _read_base(toml: TomlFile) -> TomlFile | None:
    """Read the recipe that this one extends. It lies below this one's folder, and extends nothing itself."""
    if "extends" not in toml.values:
        return None
    stated = toml.values["extends"]
    fix = 'extends = "base/sft.toml"'

    def refuse(message: str) -> RecipeError:
        return RecipeError(Problem(where=toml.where(("extends",)), key="extends", message=message, fix=fix))

    if not isinstance(stated, str) or not stated.strip() or "\0" in stated:
        raise refuse(f"is {shown(stated)}; it has to be the path of a recipe, in quotes")
    folder = Path(toml.path).parent
    base_path = os.path.normpath(folder / stated)
    if Path(stated).is_absolute() or not _is_below(base_path, folder):
        raise refuse(f"is {shown(stated)}; it has to be relative to this file and stay below its folder")
    if os.path.realpath(base_path) == os.path.realpath(toml.path):
        raise refuse(f"is {shown(stated)}, the recipe itself")
    try:
        base = read_toml(base_path)
    except RecipeError as error:
        (problem,) = error.problems
        if _LINE.fullmatch(problem.where):
            raise
        raise refuse(f"is {shown(stated)}: {problem.where} {problem.message}") from None
    if "extends" in base.values:
        again = base.values["extends"]
        raise refuse(
            f"is {shown(stated)}, which extends {shown(again)} in turn ({base.where(('extends',))}); "
            "one level is allowed"
        )
    return base


def _is_below(path: str, folder: Path) -> bool:
    real_folder = os.path.realpath(folder)
    return os.path.commonpath([os.path.realpath(path), real_folder]) == real_folder


def _validate(merged: Merged, findings: _Findings) -> dict[str, Any]:
    """Run the schema; give the values without the variables that [env] may not hold."""
    values, found = sort_environment(merged)
    odd = odd_value_problems(odd_values(values), merged)
    found += odd
    try:
        findings.recipe = Recipe.model_validate(values)
    except ValidationError as error:
        # A value that is odd on its own is not also of the wrong type: one problem for one mistake.
        told = {path for path, _ in odd}
        found += [(path, problem) for path, problem in schema_problems(error, merged) if path not in told]
    findings.problems += [problem for _, problem in found]
    findings.wrong |= {path for path, problem in found if problem.severity == "error"}
    return values


def _check(draft: Draft, merged: Merged, findings: _Findings) -> None:
    """Run every rule whose inputs are right, and keep what was derived on the way."""
    problems = list(check_recipe(draft))
    findings.spec, found = find_spec(draft)
    problems += found
    findings.devices, found = find_devices(draft, findings.spec)
    problems += found
    problems += check_training_layout(draft, findings.devices)
    if findings.spec is not None:
        findings.problems = [with_fitting_stages(problem, draft, findings.spec) for problem in findings.problems]
        problems += check_against_spec(draft, findings.spec)
        findings.layout, found = find_layout(draft, findings.spec)
        problems += found
    for problem in problems:
        findings.problems.append(replace(problem, where=merged.where(tuple(problem.key.split(".")))))


def _complete(findings: _Findings, merged: Merged) -> Recipe:
    """Fill the derived values in, and note where each value comes from."""
    recipe, spec, layout, devices = findings.recipe, findings.spec, findings.layout, findings.devices
    # Without a problem every part was found; anything else is our own mistake.
    assert recipe is not None
    assert spec is not None
    assert layout is not None
    assert devices is not None
    parallel = replace(layout, dp=devices.dp)
    dtype = recipe.model.dtype or ("bfloat16" if recipe.launch.device == "ascend" else "float32")
    stages = {"vision_stages": parallel.vision_stages, "text_stages": parallel.text_stages}
    complete = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"dtype": dtype}),
            "layout": recipe.layout.model_copy(update={"dp": devices.dp, **stages}),
            "launch": recipe.launch.model_copy(update={"devices_per_node": devices.devices_per_node}),
        }
    )
    complete._resolution = Resolution(
        path=merged.path,
        spec=spec,
        parallel=parallel,
        origins=dict(_origins(complete, merged)),
        warnings=tuple(problem for problem in findings.problems if problem.severity == "warning"),
    )
    return complete


_DERIVED: frozenset[KeyPath] = frozenset(
    {
        ("model", "dtype"),
        ("layout", "dp"),
        ("layout", "vision_stages"),
        ("layout", "text_stages"),
        ("launch", "devices_per_node"),
    }
)


def _origins(recipe: Recipe, merged: Merged) -> Iterator[tuple[str, Origin]]:
    """Give the origin of every value, in the order of the schema."""
    for path in _leaves(recipe, ()):
        kind = Origin(kind="derived") if path in _DERIVED else Origin(kind="default")
        yield dotted(path), merged.origins.get(path, kind)


def _leaves(section: BaseModel, at: KeyPath) -> Iterator[KeyPath]:
    by_key = {field.alias or name: getattr(section, name) for name, field in type(section).model_fields.items()}
    for key, value in {**by_key, **(section.model_extra or {})}.items():
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*at, key))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, element in enumerate(value):
                yield from _leaves(element, (*at, key, index))
        elif value is not None:
            yield (*at, key)


def _place(problem: Problem) -> tuple[bool, str, int]:
    """Order problems as one reads: by file and line, overrides last."""
    found = _LINE.fullmatch(problem.where)
    override = problem.where.startswith("--set ")
    return (override, found[1], int(found[2])) if found and not override else (override, problem.where, 0)
