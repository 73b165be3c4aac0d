"""Work out what a recipe leaves open (devices, replicas, stage lists) and judge the layout that results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from qvl_core import layout_rules
from qvl_core.errors import InputError, Problem
from qvl_core.layout import Layout
from qvl_core.recipe.draft import Draft
from qvl_core.recipe.wording import shown
from qvl_core.specs.model_spec import ModelSpec

ASCEND_DEVICES = 8
_CONFIG_FIX = 'config = "PATH/config.json"'
_DEGREES = ("layout.tp", "layout.pp", "layout.dp")
_STAGES = ("layout.vision_stages", "layout.text_stages")
_LAUNCH = ("launch.device", "launch.nodes", "launch.devices_per_node")


@dataclass(frozen=True, kw_only=True)
class Devices:
    """The number of processes: per machine, and as replicas of the model.

    `mended_dp` is the number of replicas that fits the devices, where the stated one does not.
    """

    dp: int
    devices_per_node: int
    mended_dp: int | None = None


def find_spec(draft: Draft) -> tuple[ModelSpec | None, list[Problem]]:
    """Give the model's spec, or the reasons why there is none."""
    from qvl_core.specs.load import load_spec, shipped_names

    taken = draft.take("model.name", "model.config")
    if taken is None or (taken[0] is None) == (taken[1] is None):
        return None, []
    name, config = taken
    if name is not None and name not in shipped_names():
        import difflib

        close = difflib.get_close_matches(name.lower(), shipped_names(), n=1, cutoff=0.5)
        fix = f'name = "{close[0]}"' if close else 'config = "PATH/config.json" for a model of your own'
        message = f"is {shown(name)}; shipped are {', '.join(shipped_names())}"
        return None, [Problem(where="", key="model.name", message=message, fix=fix)]
    try:
        return load_spec(name if name is not None else config), []
    except OSError as error:
        return None, [
            Problem(where="", key="model.config", message=f"is {shown(config)}: {error.strerror}", fix=_CONFIG_FIX)
        ]
    except InputError as error:
        key = "model.name" if name is not None else "model.config"
        problems = []
        for problem in error.problems:
            about = f"{problem.where}: {problem.key} " if problem.key else f"{problem.where}: "
            problems.append(replace(problem, where="", key=key, message=f"{about}{problem.message}"))
        return None, problems


def find_devices(draft: Draft, spec: ModelSpec | None) -> tuple[Devices | None, list[Problem]]:
    """Give the number of devices and replicas, or why tp, pp, dp and the launch do not fit together.

    With a spec, the fixes use degrees that are legal for it: who pastes all fixes has a layout that fits.
    """
    taken = draft.take(*_DEGREES, *_LAUNCH)
    if taken is None:
        return None, []
    tp, pp, dp, device, nodes, stated = taken
    # On CPU processes are free: as many as the layout asks for, so that `--set layout.pp=2` needs nothing else.
    per_node = stated or (ASCEND_DEVICES if device == "ascend" else -(-tp * pp * (dp or 1) // nodes))
    legal = layout_rules.nearest_degrees(spec, tp, pp) if spec else (tp, pp)
    if dp is None:
        if problems := list(layout_rules.check_devices_divide(tp, pp, nodes, per_node, legal=legal)):
            return None, problems
        dp = nodes * per_node // (tp * pp)
    problems = list(layout_rules.check_world(tp, pp, dp, nodes, per_node, legal=legal))
    fitting, rest = divmod(nodes * per_node, legal[0] * legal[1])
    mended_dp = fitting if problems and not rest else None
    return Devices(dp=dp, devices_per_node=per_node, mended_dp=mended_dp), problems


def find_layout(draft: Draft, spec: ModelSpec) -> tuple[Layout | None, list[Problem]]:
    """Give degrees and stage lists (dp left at 1), derived where they are not stated, with every broken rule."""
    problems: list[Problem] = []
    tp, pp = draft.take("layout.tp"), draft.take("layout.pp")
    if tp:
        problems += layout_rules.check_tensor_degree(spec, tp[0])
    taken = draft.take("layout.vision_stages", "layout.text_stages")
    if pp is None or taken is None:
        return None, problems
    broken = list(layout_rules.check_pipeline_degree(spec, pp[0]))
    if broken:
        return None, problems + broken
    vision, text = taken
    broken = [*_single_list_problems(spec, pp[0], vision, text)]
    if broken:
        return None, problems + broken
    vision, text = layout_rules.derive_stages(spec, pp[0], vision_stages=vision, text_stages=text)
    task = draft.take("task")
    inference = task is not None and task[0] in ("eval", "infer")
    problems += layout_rules.check_stages(spec, pp[0], vision, text, inference=inference)
    return Layout(vision_stages=vision, text_stages=text, tp=tp[0] if tp else 1, pp=pp[0]), problems


def with_fitting_stages(problem: Problem, draft: Draft, spec: ModelSpec) -> Problem:
    """Give a problem of the schema with a stage list; its fix becomes a list for this model and these stages."""
    key, pp = problem.key.partition("[")[0], draft.take("layout.pp")
    if key not in _STAGES or pp is None or list(layout_rules.check_pipeline_degree(spec, pp[0])):
        return problem
    name = key.partition(".")[2]
    stages = layout_rules.derive_stages(spec, pp[0])[_STAGES.index(key)]
    return replace(problem, fix=f"{name} = {list(stages)}")


def _single_list_problems(
    spec: ModelSpec, pp: int, vision: list[int] | None, text: list[int] | None
) -> Iterator[Problem]:
    """Judge the list that is stated where the other one is to be derived from it."""
    if (vision is None) == (text is None):
        return
    # The other list is replaced by one that breaks no rule, so that only the stated one is judged.
    whole_vision, whole_text = layout_rules.derive_stages(spec, pp)
    pair = (vision or whole_vision, text or whole_text)
    yield from layout_rules.check_stage_counts(spec, pp, *pair)
    yield from layout_rules.check_stage_sums(spec, pp, *pair)
    if vision is not None and len(vision) == pp:
        yield from layout_rules.check_text_covers_stages(spec, vision)


def check_training_layout(draft: Draft, devices: Devices | None) -> Iterator[Problem]:
    """Judge batch sizes and optimizer sharding against the replicas."""
    if devices is None:
        return
    task, batches, zero1 = (
        draft.take("task"),
        draft.take("train.global_batch", "train.micro_batch"),
        draft.take("layout.zero1"),
    )
    if task is None or task[0] != "sft":
        return
    if batches:
        global_batch, micro_batch = batches
        yield from layout_rules.check_global_batch(global_batch, micro_batch, devices.dp, mended_dp=devices.mended_dp)
    if zero1:
        yield from layout_rules.check_zero1(zero1[0], devices.dp)
