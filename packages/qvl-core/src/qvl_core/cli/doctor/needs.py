"""What a recipe needs of this machine: devices, memory, disk, an output folder that works, its files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from qvl_core.cli.doctor.data_rows import SKEW_S
from qvl_core.cli.doctor.disks import promises_broken
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.terminal import bytes_text

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

MIB = 1 << 20
# fp32 copy of the weight, two moments and the gradient sum, bytes for each trained parameter.
_TRAINED_BYTES = 16
# What a process takes before it holds a weight: Python, MindSpore, its threads.
_PROCESS_BYTES = 600 * MIB
_SECRET = re.compile(r"(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16})")


def check_devices_for(
    recipe: Recipe, devices: Path, cores: int, environment: Mapping[str, str] = MappingProxyType({})
) -> Row:
    """Check that the devices which the recipe starts processes on are here."""
    layout, launch = recipe.parallel, recipe.launch
    wanted = -(-layout.world_size // launch.nodes)
    if launch.device == "cpu":
        evidence = f"{wanted} CPU process{'es' if wanted > 1 else ''} on {cores} core{'s' if cores > 1 else ''}"
        if wanted > cores:
            fix = "it works, slowly; fewer ranks are faster here"
            return Row(check="recipe-devices", level="warn", evidence=evidence, fix=fix)
        return Row(check="recipe-devices", level="ok", evidence=evidence)
    found = sorted(int(path.name[7:]) for path in devices.glob("davinci[0-9]*") if path.name[7:].isdecimal())
    name = "ASCEND_RT_VISIBLE_DEVICES"
    visible = recipe.env.ASCEND_RT_VISIBLE_DEVICES or environment.get(name, "")
    whose = f"env.{name}" if recipe.env.ASCEND_RT_VISIBLE_DEVICES else f"{name} of this shell"
    parts = [part.strip() for part in visible.split(",")] if visible else []
    named = [int(part) for part in parts if part.isdecimal()] if visible else found[:wanted]
    absent = [number for number in named if number not in found]
    here = f"{wanted} NPU{'s' if wanted > 1 else ''} wanted here, {len(found)} found in {devices}"
    if len(found) < wanted:
        fix = "run it where they are; to try the recipe on CPU: a tiny recipe with --set launch.device=cpu"
        return Row(check="recipe-devices", level="fail", evidence=here, fix=fix)
    fix = f'[env] {name} = "{",".join(map(str, found[:wanted]))}"'
    if len(set(named)) < wanted:
        evidence = f"{whose} is {visible[:60]}: {len(set(named))} of the {wanted} devices that the recipe wants here"
        return Row(check="recipe-devices", level="fail", evidence=evidence, fix=fix)
    if absent:
        evidence = f"{whose} names {', '.join(map(str, absent))}, which are not here"
        return Row(check="recipe-devices", level="fail", evidence=evidence, fix=fix)
    return Row(check="recipe-devices", level="ok", evidence=here)


def check_host_memory(recipe: Recipe, available: int) -> Row:
    """Check that the processes of this machine fit: weights and optimizer on CPU, copies of a checkpoint on Ascend."""
    need, what = host_bytes(recipe)
    evidence = f"needs about {bytes_text(need)} ({what})"
    if not available:
        # What cannot be read is not nothing.
        return Row(
            check="recipe-memory", level="skipped", evidence=f"{evidence}; what is left is not known: see memory"
        )
    evidence = f"{evidence}, {bytes_text(available)} available"
    if need <= available:
        return Row(check="recipe-memory", level="ok", evidence=evidence)
    fix = "a smaller model, fewer processes on this machine, or train.save.background = false"
    return Row(check="recipe-memory", level="fail" if need > 1.5 * available else "warn", evidence=evidence, fix=fix)


def check_device_memory(recipe: Recipe, capacity: int) -> Row:
    """Check what `qvl plan` counts for the fullest rank: weights, optimizer, activations, caches, HCCL's buffers."""
    from qvl_core.planner.recipe_plan import memory_sentence, recipe_plan

    if recipe.launch.device != "ascend":
        return Row(check="device-memory", level="skipped", evidence="the recipe runs on CPU")
    need = device_bytes(recipe)
    evidence = f"{memory_sentence(recipe_plan(recipe))} (arithmetic)"
    if not capacity:
        return Row(check="device-memory", level="skipped", evidence=f"{evidence}; the device's size is not known here")
    evidence += f"; a device has {bytes_text(capacity)}"
    if need > capacity:
        memory = f"{capacity / 2**30:.4g}"
        evidence += f"; {_layouts_that_fit(recipe, capacity)}"
        fix = f"qvl plan {recipe.path} --memory-gib {memory} gives a [layout] to paste, or says what would fit"
        return Row(check="device-memory", level="fail", evidence=evidence, fix=fix)
    if need > 0.9 * capacity:
        fix = f"little is left should samples be longer: qvl plan {recipe.path} compares layouts and recomputation"
        return Row(check="device-memory", level="warn", evidence=evidence, fix=fix)
    return Row(check="device-memory", level="ok", evidence=evidence)


def _layouts_that_fit(recipe: Recipe, capacity: int) -> str:
    """Name the fastest layouts of as many devices that fit, three at most."""
    from qvl_core.planner.recipe_plan import recipe_plan
    from qvl_core.planner.report import recompute_text
    from qvl_core.planner.search import search

    devices = recipe.parallel.world_size
    named: dict[tuple[int, int, int], str] = {}
    for plan in search(recipe_plan(recipe).job, devices, capacity, top=12):
        layout = plan.layout
        text = f"tp {layout.tp} pp {layout.pp} dp {layout.dp}, micro batch {plan.micro_batch}, recompute "
        text += f"{recompute_text(plan)} ({bytes_text(int(plan.memory))})"
        named.setdefault((layout.tp, layout.pp, layout.dp), text)
    here = f"on {devices} device{'' if devices == 1 else 's'}"
    return f"what fits {here}: {'; '.join([*named.values()][:3])}" if named else f"nothing fits {here}"


def check_output(recipe: Recipe) -> Row:
    """Check the output folder's file system with a file of our own: writing, locks, renames, syncing."""
    stated = Path(recipe.output.dir)
    folder = next(path for path in (stated, *stated.absolute().parents) if path.exists())
    probe = folder / f".qvl-doctor-{os.getpid()}"
    before = time.time()
    try:
        with probe.open("w") as file:
            file.write("x")
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        skew = probe.stat().st_mtime - before
        renamed = probe.with_name(f"{probe.name}.renamed")
        probe.replace(renamed)
        renamed.unlink()
    except OSError as error:
        # On a read-only disk not even that.
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        evidence = f"{folder} does not take a file, a lock, a rename or a sync: {error.strerror}"
        fix = "--set output.dir=DIR on a disk where you may write, a local one if the network's has no locks"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free space there, or --set output.dir=DIR on another disk"
        return Row(check="output-folder", level="fail", evidence=evidence, fix=fix)
    if abs(skew) > SKEW_S:
        evidence = (
            f"{folder} works; a new file there is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the clock"
        )
        fix = "set the clock of this machine, or of the one that serves the disk (ntpd, chronyd)"
        return Row(check="output-folder", level="warn", evidence=evidence, fix=fix)
    if broken := promises_broken(folder):
        fix = "--set output.dir=DIR on a local disk or a parallel file system; copy results to this one afterwards"
        return Row(check="output-folder", level="warn", evidence=f"{folder} {broken}", fix=fix)
    return Row(check="output-folder", level="ok", evidence=f"{folder}: files, locks, renames and syncing work")


def check_space(recipe: Recipe, free: int | None = None) -> Row:
    """Check that the checkpoints that are kept, one more while it is written, and the export fit on the disk."""
    train = recipe.train
    if recipe.task != "sft" or train is None:
        return Row(check="output-space", level="skipped", evidence="only training writes much")
    stated = Path(recipe.output.dir)
    folder = next(path for path in (stated, *stated.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free if free is None else free
    one, weights = checkpoint_bytes(recipe)
    need = one * (train.save.keep + 1) + (weights if train.save.export_hf else 0)
    evidence = f"needs {bytes_text(need)} ({train.save.keep + 1} checkpoints of {bytes_text(one)}"
    evidence += f"{' and the export' if train.save.export_hf else ''}), {bytes_text(free)} free on the disk of {folder}"
    if need <= free:
        return Row(check="output-space", level="ok", evidence=evidence)
    fits = max(0, (free - weights) // one - 1) if one else 0
    fix = f"--set train.save.keep={fits}" if fits else "another disk: --set output.dir=DIR"
    return Row(check="output-space", level="fail", evidence=evidence, fix=f"{fix}, or train.save.optimizer = false")


def check_loss_of_a_stop(recipe: Recipe) -> Row:
    """Tell what a stop would lose, where the time of a step was measured."""
    train, step = recipe.train, recipe.expected.step_time_s if recipe.expected else None
    if train is None or step is None:
        return Row(check="time-lost", level="skipped", evidence="no measured step time under [expected]")
    lost = train.save.every * step
    evidence = f"a stop loses at most {lost / 60:.0f} min ({train.save.every} steps of {step:g} s)"
    if lost <= 3600:
        return Row(check="time-lost", level="ok", evidence=evidence)
    return Row(check="time-lost", level="warn", evidence=evidence, fix=f"train.save.every = {max(1, int(3600 / step))}")


def check_nodes(recipe: Recipe) -> Row:
    """Tell how the machines of a run are compared: only this one is looked at."""
    if recipe.launch.nodes == 1:
        return Row(check="nodes-agree", level="ok", evidence="one machine")
    evidence = f"{recipe.launch.nodes} machines; only this one is looked at"
    fix = "qvl doctor --recipe R --json > NAME.json on each, then qvl doctor --compare ONE.json --compare OTHER.json"
    return Row(check="nodes-agree", level="skipped", evidence=evidence, fix=fix)


def check_secrets(recipe: Recipe) -> Row:
    """Tell of values that look like access tokens: recipes are copied into every output."""
    found = sorted(key for key, text in _texts(recipe.resolved()) if _SECRET.search(text))
    if found:
        evidence = f"{', '.join(found)} holds what looks like an access token"
        fix = "take it out, and revoke it if the recipe was shared; qvl needs none"
        return Row(check="secrets", level="warn", evidence=evidence, fix=fix)
    return Row(check="secrets", level="ok", evidence="no access token in the recipe")


def host_bytes(recipe: Recipe) -> tuple[int, str]:
    """Give the memory that the processes of one machine take on the host, and what of."""
    from qvl_core.cli.arithmetic import rows_of

    rows, layout = rows_of(recipe), recipe.parallel
    per_node = -(-layout.world_size // recipe.launch.nodes)
    base = per_node * _PROCESS_BYTES
    average = sum(row.rank_bytes for row in rows) / len(rows)
    trained = sum(row.rank_trainable for row in rows) / len(rows) if recipe.task == "sft" else 0
    held = average + _TRAINED_BYTES * trained
    if recipe.launch.device == "cpu":
        return base + int(per_node * held), f"{per_node} x process, weights, optimizer"
    if recipe.train is not None and recipe.task == "sft" and recipe.train.save.background:
        optimizer = 12 * trained / (layout.dp if recipe.layout.zero1 else 1)
        kept = average + (optimizer if recipe.train.save.optimizer else 0)
        return base + int(per_node / layout.dp * kept), f"{per_node} processes and the copy of a checkpoint"
    return base, f"{per_node} processes"


def device_bytes(recipe: Recipe) -> int:
    """Give what the fullest rank takes on its device by the account of `qvl plan`, bytes."""
    from qvl_core.planner.recipe_plan import recipe_plan

    return int(recipe_plan(recipe).memory)


def checkpoint_bytes(recipe: Recipe) -> tuple[int, int]:
    """Give the bytes of one checkpoint, and of the weights (or adapters) in it."""
    from qvl_core.cli.arithmetic import ADAPTER_BYTES, OPTIMIZER_BYTES, rows_of

    rows, tp = rows_of(recipe), recipe.parallel.tp
    trained = sum(row.rank_trainable for row in rows) * tp
    if recipe.lora is None:
        weights, each = sum(row.rank_bytes for row in rows) * tp, OPTIMIZER_BYTES
    else:
        weights, each = ADAPTER_BYTES * trained, OPTIMIZER_BYTES - ADAPTER_BYTES
    keeps = recipe.train is not None and recipe.train.save.optimizer
    return weights + (each * trained if keeps else 0), weights


def npu_capacity(tool_output: str) -> int:
    """Read the memory of a device from the last `used / total` of `npu-smi info`, MB; 0 where it says none."""
    totals = [int(total) for _, total in re.findall(r"(\d+)\s*/\s*(\d+)\s*\|", tool_output)]
    return max(totals, default=0) * MIB


def _texts(value: object, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for name, inner in value.items() for pair in _texts(inner, f"{key}.{name}".lstrip("."))]
    if isinstance(value, list):
        return [pair for inner in value for pair in _texts(inner, key)]
    return [(key, value)] if isinstance(value, str) else []
