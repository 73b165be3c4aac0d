"""The layout that a command line asks for: by flags, or by a recipe."""

from __future__ import annotations

import re
from dataclasses import replace

from qvl_core.errors import Problem, RecipeError
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout, check_pipeline_degree, check_tensor_degree, derive_stages
from qvl_core.specs.model_spec import ModelSpec

_WHERE = "command line"


def layout_of_flags(
    spec: ModelSpec, tp: int | None, pp: int | None, vision_stages: str | None, text_stages: str | None
) -> Layout:
    """Give the layout of the flags; left out, tp and pp are 1 and the stages derived.

    Raises RecipeError with all that is wrong, in the words of the flags.
    """
    vision, text = _stages("--vision-stages", vision_stages), _stages("--text-stages", text_stages)
    stated = vision or text
    stages = pp if pp is not None else len(stated) if stated else 1
    tensor_degree = 1 if tp is None else tp
    # Stages can be derived only for a possible number of them; where both are stated, all rules are told at once.
    if not any(check_pipeline_degree(spec, stages)) and (vision is None or text is None):
        vision, text = derive_stages(spec, stages, vision_stages=vision, text_stages=text)
    layout = Layout(tp=tensor_degree, pp=stages, vision_stages=vision or (), text_stages=text or ())
    if vision is None or text is None:
        problems = [*check_tensor_degree(spec, tensor_degree), *check_pipeline_degree(spec, stages)]
    else:
        problems = check_layout(spec, layout)
    if problems:
        raise RecipeError(map(_in_flags, problems))
    return layout


def layout_text(layout: Layout) -> str:
    """Give a layout for people."""
    vision, text = (",".join(map(str, stages)) for stages in (layout.vision_stages, layout.text_stages))
    return f"tp {layout.tp}, pp {layout.pp}, vision stages {vision}, text stages {text}"


def _stages(flag: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    counts = text.strip().strip("[]").split(",")
    if len(counts) > 1024 or not all(re.fullmatch(r"\s*\d{1,4}\s*", count) for count in counts):
        message = f"is {text[:60]!r}; it has to be one whole number for each stage"
        raise RecipeError(Problem(where=_WHERE, key=flag, message=message, fix=f"for example {flag} 1,10,10,7"))
    return tuple(int(count) for count in counts)


def _in_flags(problem: Problem) -> Problem:
    key = _flag(problem.key.removeprefix("layout."))
    message = re.sub(r"layout\.(\w+)", lambda found: _flag(found[1]), problem.message)
    # A recipe's keys are taken back by an empty value, a flag by leaving it out.
    fix = re.sub(r": --set layout\.vision_stages= --set layout\.text_stages=", "", problem.fix)
    fix = re.sub(r"(\w+) = (\[[\d, ]*\]|\d+)", lambda found: f"{_flag(found[1])} {_value(found[2])}", fix)
    fix = re.sub(r"example (\[[\d, ]*\])", lambda found: f"example {key} {_value(found[1])}", fix)
    return replace(problem, where=_WHERE, key=key, message=message, fix=fix)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _value(shown: str) -> str:
    return shown.strip("[]").replace(" ", "")
