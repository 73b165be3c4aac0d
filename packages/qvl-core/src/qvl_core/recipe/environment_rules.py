"""Sort what stands under [env] into what is passed on, what has no effect here, and what a recipe may not set."""

from __future__ import annotations

import re
from typing import Any, Literal

from qvl_core.errors import Problem
from qvl_core.recipe.merge import Merged
from qvl_core.recipe.positions import KeyPath

Severity = Literal["error", "warning"]

# Read by torch_npu only: harmless, so old launch scripts can be carried over, but nobody should think they work.
_TORCH_ONLY = (
    "ASCEND_LAUNCH_BLOCKING",
    "COMBINED_ENABLE",
    "CPU_AFFINITY_CONF",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "NPU_ASD_ENABLE",
    "PYTORCH_NPU_ALLOC_CONF",
    "TASK_QUEUE_ENABLE",
)
_INSTEAD = {
    "ASCEND_LAUNCH_BLOCKING": "MS_DEV_LAUNCH_BLOCKING = 1 does this in MindSpore",
    "PYTORCH_NPU_ALLOC_CONF": "MS_ALLOC_CONF does this in MindSpore",
}
_GRAPH_MODE_ONLY = ("MS_ENABLE_TFT",)
_CODE_LOADING = re.compile(r"LD_.*|DYLD_.*|PYTHON.*|BASH_ENV|ENV|PATH|IFS|SHELLOPTS|GCONV_PATH")
_LAUNCHER = (
    "MS_ROLE",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
    "MS_WORKER_NUM",
    "MS_NODE_ID",
    "RANK_ID",
    "RANK",
    "LOCAL_RANK",
)
_RECIPE_KEYS = {
    "LOCAL_WORLD_SIZE": "launch.devices_per_node",
    "MASTER_ADDR": "launch.master",
    "MASTER_PORT": "launch.master",
    "NNODES": "launch.nodes",
    "NODE_RANK": "--node-rank of `qvl run`",
    "NPUS_PER_NODE": "launch.devices_per_node",
    "RANK_SIZE": "tp, pp and dp under [layout]",
    "WORLD_SIZE": "tp, pp and dp under [layout]",
}


def sort_environment(merged: Merged) -> tuple[dict[str, Any], list[tuple[KeyPath, Problem]]]:
    """Give the recipe's values without the variables that are dealt with here, and a Problem or warning for each."""
    stated = merged.values.get("env")
    if not isinstance(stated, dict):
        return merged.values, []
    problems: list[tuple[KeyPath, Problem]] = []
    kept = {}
    for name, value in stated.items():
        verdict = _verdict(name)
        if verdict is None:
            kept[name] = value
            continue
        message, fix, severity = verdict
        path = ("env", name)
        problem = Problem(
            where=merged.where(path),
            key=f"env.{name}",
            message=message,
            fix=fix,
            severity=severity,
        )
        problems.append((path, problem))
    return {**merged.values, "env": kept}, problems


def _verdict(name: str) -> tuple[str, str, Severity] | None:
    """Give message, fix and severity for a variable that is not passed on."""
    if name in _TORCH_ONLY:
        fix = _INSTEAD.get(name, "leave it out")
        return (
            "is read by the PyTorch adapter only; qvl runs MindSpore, it has no effect and is not passed on",
            fix,
            "warning",
        )
    if name in _GRAPH_MODE_ONLY:
        return (
            "works in MindSpore's graph mode only; it has no effect here and is not passed on",
            "leave it out",
            "warning",
        )
    if name in _RECIPE_KEYS:
        return (
            f"is not set by hand: {_RECIPE_KEYS[name]} states it",
            f"leave it out and use {_RECIPE_KEYS[name]}",
            "error",
        )
    if name in _LAUNCHER:
        return "is set by the launcher for each process", "leave it out", "error"
    if _CODE_LOADING.fullmatch(name):
        message = "decides which code the workers load; a recipe may not set it"
        return message, "set it in the shell that starts qvl, if you must", "error"
    return None
