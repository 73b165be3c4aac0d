"""Rules between keys, one named check each. Each runs when the keys that it reads are right, whatever else is wrong.

Checks give Problems without `where`: the loader fills it in from the key.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from qvl_core.errors import Problem
from qvl_core.lora_table import COMPONENTS, TARGETS
from qvl_core.recipe import data_checks
from qvl_core.recipe.derive import ASCEND_DEVICES
from qvl_core.recipe.draft import Draft
from qvl_core.recipe.environment_checks import check_environment
from qvl_core.recipe.merge import EXCLUSIVE
from qvl_core.recipe.problems import error, warning
from qvl_core.recipe.sections.train import MOST_PROFILED_STEPS
from qvl_core.recipe.wording import shown
from qvl_core.specs.model_spec import ModelSpec

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62})?)*")
_MASTER_RULE = "host:port, a host name or IPv4 address and a port from 1024 to 65535"
_LOCAL = ("localhost", "127.0.0.1")
_COMPONENTS = ("vision", "merger", "text")


def check_recipe(draft: Draft) -> Iterator[Problem]:
    """Run every check that needs no model spec."""
    yield from check_task_sections(draft)
    yield from check_exclusive_keys(draft)
    yield from check_something_trains(draft)
    yield from check_adapters(draft)
    yield from check_learning_rates(draft)
    yield from check_profile(draft)
    yield from data_checks.check_recipe(draft)
    yield from check_precision(draft)
    yield from check_sampling(draft)
    yield from check_rules_fit_benchmark(draft)
    yield from check_evaluation_during_training(draft)
    yield from check_master(draft)
    yield from check_cpu_machines(draft)
    yield from check_tensor_groups(draft)
    yield from check_visible_devices(draft)
    yield from check_environment(draft)
    yield from check_output_apart_from_weights(draft)


def check_against_spec(draft: Draft, spec: ModelSpec) -> Iterator[Problem]:
    """Run every check between the data and the model's shape."""
    yield from data_checks.check_against_spec(draft, spec)


def check_task_sections(draft: Draft) -> Iterator[Problem]:
    """Refuse a task without the sections that it needs."""
    taken = draft.take("task")
    if taken is None:
        return
    (task,) = taken
    needed = {"sft": ("data", "train"), "eval": ("eval",), "infer": ("generation",)}[task]
    for section in needed:
        if not draft.states(section):
            yield error(section, f'is missing; task = "{task}" needs it', f"[{section}]\n{_EXAMPLES[section]}")
    if task == "sft" and draft.states("data") and draft.take("data.sources") in (((),), ([],)):
        fix = 'sources = [{ path = "data/llava.json", format = "llava" }]'
        yield error("data.sources", 'is missing; task = "sft" needs at least one file of records', fix)


_EXAMPLES = {
    "data": 'sources = [{ path = "data/llava.json", format = "llava" }]',
    "train": "steps = 10000\nglobal_batch = 192\noptimizer = { lr = 1e-5 }",
    "eval": 'benchmark = "ai2d_test"\ndata = "data/AI2D_TEST.tsv"',
    "generation": "max_new_tokens = 256",
}


def check_exclusive_keys(draft: Draft) -> Iterator[Problem]:
    """Refuse both or neither of model.name and config, train.steps and epochs, validation.fraction and path."""
    for table, first, second in EXCLUSIVE:
        prefix = ".".join(table)
        if not draft.states(prefix) or draft.take(prefix) == (None,):
            continue
        stated = [key for key in (first, second) if draft.states(f"{prefix}.{key}")]
        if len(stated) == 2:
            yield error(
                f"{prefix}.{second}",
                f"is stated together with {first}; a recipe states one",
                f"leave {second} or {first} out",
            )
        elif not stated and draft.take(f"{prefix}.{first}", f"{prefix}.{second}"):
            yield error(prefix, f"states neither {first} nor {second}; it needs one", _ONE_OF[first])


_ONE_OF = {"name": 'name = "qwen2.5-vl-7b"', "steps": "steps = 10000", "fraction": "fraction = 0.1"}


def check_something_trains(draft: Draft) -> Iterator[Problem]:
    """Refuse fine-tuning with every component frozen; warn of learning-rate scales of frozen ones."""
    taken = draft.take("task", "model.freeze")
    if taken is None or taken[0] != "sft":
        return
    frozen = taken[1]
    if set(frozen) == set(_COMPONENTS) and not draft.states("train.lora"):
        message = "freezes vision, merger and text: nothing is left to train"
        yield error("model.freeze", message, 'freeze = ["vision", "merger"], or add [train.lora]')
    adapted = draft.take("train.lora.components")
    for component in _COMPONENTS:
        if not draft.states(f"train.optimizer.lr_scale.{component}"):
            continue
        if component in frozen if adapted is None else component not in adapted[0]:
            why = f"model.freeze holds {component}" if adapted is None else f"no adapter is on {component}"
            yield warning(f"train.optimizer.lr_scale.{component}", f"has no effect: {why}", "leave it out")


def check_adapters(draft: Draft) -> Iterator[Problem]:
    """Refuse targets that no chosen component has, and components without a target; warn of a base that is nowhere."""
    if draft.states("train.lora") and draft.take("weights.init") == ("random",):
        message = "trains adapters of random weights, which no folder will hold: nothing can use or merge them"
        yield warning("train.lora", message, "give trained weights: leave weights.init out")
    taken = draft.take("train.lora.components", "train.lora.targets")
    if taken is None:
        return
    components, targets = taken
    for key, chosen in (("components", components), ("targets", targets)):
        if len(set(chosen)) < len(chosen):
            fix = f"{key} = {json.dumps(list(dict.fromkeys(chosen)))}"
            yield error(f"train.lora.{key}", "names one of them twice", fix)
    names = [name for component in components for name in TARGETS[component]]
    for target in targets:
        if target not in names:
            others = [component for component in COMPONENTS if target in TARGETS[component]]
            where = " and ".join(components)
            message = f"names {target}, which is no layer of {where}; {where} has {', '.join(dict.fromkeys(names))}"
            fix = f"components = {json.dumps([*components, *others[:1]])}"
            closest = difflib.get_close_matches(target, names, 1, 0.5)
            yield error("train.lora.targets", message, f'"{closest[0]}" in its place, or {fix}' if closest else fix)
    for component in components:
        own = TARGETS[component]
        if not set(own) & set(targets):
            message = f"names {component}, which has none of the targets; it has {', '.join(own)}"
            yield error("train.lora.components", message, f"targets = {json.dumps([*targets, *own])}")


def check_learning_rates(draft: Draft) -> Iterator[Problem]:
    """Refuse a schedule that ends above its peak."""
    taken = draft.take("train.optimizer.lr", "train.schedule.min_lr")
    if taken and taken[1] > taken[0]:
        message = f"is {taken[1]}, more than train.optimizer.lr = {taken[0]}"
        yield error("train.schedule.min_lr", message, f"min_lr = {taken[0]} or less")


def check_profile(draft: Draft) -> Iterator[Problem]:
    """Refuse steps to profile that are none, too many, or after the run."""
    taken = draft.take("train.log.profile")
    if taken is None or taken[0] is None:
        return
    first, last = taken[0]
    if last < first:
        message = f"ends with step {last}, before its first one, {first}"
        yield error("train.log.profile", message, f"profile = [{last}, {first}]")
        return
    if last - first + 1 > MOST_PROFILED_STEPS:
        message = f"names {last - first + 1:,} steps; a trace of at most {MOST_PROFILED_STEPS} can be used"
        yield error("train.log.profile", message, f"profile = [{first}, {first + 2}]")
    steps = draft.take("train.steps")
    if steps is not None and steps[0] is not None and last > steps[0]:
        begin = max(1, steps[0] - (last - first))
        message = f"ends with step {last}, but the run has train.steps = {steps[0]}"
        yield error("train.log.profile", message, f"profile = [{begin}, {steps[0]}]")


def check_precision(draft: Draft) -> Iterator[Problem]:
    """Refuse bfloat16 on CPU: MindSpore has no bfloat16 matmul there."""
    taken = draft.take("model.dtype", "launch.device")
    if taken == ("bfloat16", "cpu"):
        message = 'is "bfloat16", but launch.device is "cpu", where MindSpore has no bfloat16 matmul'
        yield error("model.dtype", message, 'dtype = "float32"')


def check_sampling(draft: Draft) -> Iterator[Problem]:
    """Warn of a temperature that changes nothing."""
    taken = draft.take("generation.temperature", "generation.top_k")
    if taken and taken[0] > 0 and taken[1] == 1:
        message = f"is {taken[0]}, but top_k = 1 always takes the likeliest token: answers stay greedy"
        yield warning("generation.temperature", message, "temperature = 0.0, or top_k = 0 to sample among all tokens")


# Benchmarks whose answers are compared as they stand, and those of free texts, for which MMMU's rules say nothing.
_EXACT_ONLY = ("digits_test", "held_out")
_TEXTS = ("chartqa_test", "docvqa_val")


def check_rules_fit_benchmark(draft: Draft) -> Iterator[Problem]:
    """Refuse scoring rules that do not know the benchmark, and one that is named twice."""
    taken = draft.take("eval.benchmark", "eval.rules")
    if taken is None:
        return
    benchmark = taken[0]
    chosen = (taken[1],) if isinstance(taken[1], str) else tuple(taken[1])
    fix = 'rules = "exact"' if benchmark in _EXACT_ONLY else 'rules = "vlmevalkit-2025-09"'
    for name in dict.fromkeys(chosen):
        if not _fits(name, benchmark):
            yield error("eval.rules", f'is "{name}", which has no rules for {benchmark}', fix)
        if chosen.count(name) > 1:
            yield error("eval.rules", f'names "{name}" twice', f"rules = {json.dumps(list(dict.fromkeys(chosen)))}")


def _fits(rules: str, benchmark: str) -> bool:
    if benchmark in _EXACT_ONLY or rules == "exact":
        return benchmark in _EXACT_ONLY and rules == "exact"
    if "+" in rules:
        return benchmark == "mmmu_dev_val"
    return not (benchmark in _TEXTS and rules.startswith("mmmu-official"))


def check_evaluation_during_training(draft: Draft) -> Iterator[Problem]:
    """Warn of an evaluation that never comes, or of a step count that an evaluation recipe does not have."""
    taken = draft.take("task", "eval.every")
    if taken is None or not draft.states("eval"):
        return
    task, every = taken
    if task == "sft" and not every:
        message = "is 0: the training never evaluates, and [eval] has no effect"
        yield warning("eval.every", message, "every = 500, or leave [eval] out")
    if task == "eval" and every:
        yield warning("eval.every", f'is {every}; it has a meaning with task = "sft" only', "leave it out")


def check_master(draft: Draft) -> Iterator[Problem]:
    """Refuse a meeting point that is not host:port; warn of one that has to be named where the run starts."""
    taken = draft.take("launch.master")
    if taken is None:
        return
    master = taken[0]
    fix = 'master = "localhost:29501"'
    if reason := _master_fault(master):
        yield error("launch.master", f"is {shown(master)}: {reason}; it has to be {_MASTER_RULE}", fix)
        return
    launch = draft.take("launch.device", "launch.nodes")
    device, nodes = launch or ("", 1)
    if device == "ascend" and nodes > 1 and master.rpartition(":")[0].lower() in _LOCAL:
        message = (
            f"is {shown(master)}, which the other machines cannot reach; launch.nodes is {nodes}: the first machine "
            "has to be named by MASTER_ADDR or SLURM_JOB_NODELIST when the run starts"
        )
        yield warning(
            "launch.master", message, 'master = "HOST:29501" with the first machine\'s host name or IPv4 address'
        )


def _master_fault(master: str) -> str:
    host, colon, port = master.rpartition(":")
    if not colon or not host:
        return "it has no host or no port"
    if host.startswith("[") or ":" in host:
        return "IPv6 addresses and several ports are not understood by msrun"
    if not port.isascii() or not port.isdecimal() or not 1024 <= int(port[:9]) <= 65535 or len(port) > 5:
        return f"the port is {shown(port)}"
    if re.fullmatch(r"[0-9.]+", host):
        numbers = host.split(".")
        legal = len(numbers) == 4 and all(part.isdecimal() and len(part) <= 3 and int(part) <= 255 for part in numbers)
        return "" if legal else f"{shown(host)} is not an IPv4 address"
    return "" if _HOST.fullmatch(host) and not host.endswith("-") else f"{shown(host)} is not a host name"


def check_cpu_machines(draft: Draft) -> Iterator[Problem]:
    """Refuse several machines on CPU: mpiexec starts all processes on this one."""
    taken = draft.take("launch.device", "launch.nodes")
    if taken and taken[0] == "cpu" and taken[1] > 1:
        yield error("launch.nodes", f"is {taken[1]}; a CPU run uses one machine", "nodes = 1")


def check_tensor_groups(draft: Draft) -> Iterator[Problem]:
    """Warn of tensor groups that lie over two machines: every layer's sums then go over the link between them."""
    taken = draft.take("launch.device", "layout.tp", "launch.nodes", "launch.devices_per_node")
    if taken is None or taken[0] == "cpu" or taken[2] < 2:
        return
    tp, nodes, devices = taken[1], taken[2], taken[3] or ASCEND_DEVICES
    if devices % tp:
        message = (
            f"is {tp}, with {devices} devices on each of {nodes} machines: the sums of every layer go from machine "
        )
        message += "to machine"
        yield warning("layout.tp", message, f"tp = {math.gcd(tp, devices)}, or as many devices a machine as tp divides")


def check_visible_devices(draft: Draft) -> Iterator[Problem]:
    """Refuse a device list that is not one, or that is shorter than the processes of a machine."""
    taken = draft.take("env.ASCEND_RT_VISIBLE_DEVICES")
    if taken is None or taken[0] is None:
        return
    key, stated = "env.ASCEND_RT_VISIBLE_DEVICES", taken[0]
    numbers = stated.split(",")
    if not all(number.isascii() and number.isdecimal() and len(number) <= 4 for number in numbers):
        message = f"is {shown(stated)}; it has to be a comma list of device numbers without spaces"
        yield error(key, message, f'{key.partition(".")[2]} = "0,1,2,3,4,5,6,7"')
        return
    if len(set(numbers)) < len(numbers):
        yield error(key, f"is {shown(stated)}, which names a device twice", "name each device once")
        return
    launch = draft.take("launch.device", "launch.devices_per_node")
    devices = (launch[1] or ASCEND_DEVICES) if launch and launch[0] == "ascend" else 0
    if len(numbers) < devices:
        message = f"names {len(numbers)} devices; launch.devices_per_node is {devices}"
        yield error(key, message, f"devices_per_node = {len(numbers)} under [launch], or name {devices} devices")


def check_output_apart_from_weights(draft: Draft) -> Iterator[Problem]:
    """Refuse an output folder that is a folder of weights or lies in it: a run must not write into its source."""
    for key in ("weights.source", "weights.adapter"):
        taken = draft.take("output.dir", key)
        if taken is None or taken[1] is None:
            continue
        output, weights = os.path.realpath(taken[0]), os.path.realpath(taken[1])
        if os.path.commonpath([output, weights]) == weights:
            relation = "is the folder of" if output == weights else "lies in"
            via = f" ({output})" if output != os.path.normpath(Path.cwd() / taken[0]) else ""
            message = f"is {shown(taken[0])}{via}, which {relation} {key} = {shown(taken[1])}"
            yield error("output.dir", message, 'dir = "runs/NAME"')
