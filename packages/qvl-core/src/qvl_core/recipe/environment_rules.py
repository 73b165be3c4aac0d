"""Sort what stands under [env] into what is passed on, what has no effect here, and what a recipe may not set."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from qvl_core.errors import Problem
from qvl_core.recipe.environment_values import missing_partners, value_fault, without_effect
from qvl_core.recipe.merge import Merged
from qvl_core.recipe.positions import KeyPath
from qvl_core.recipe.sections.env import EnvSection

Severity = Literal["error", "warning"]

# Read by torch_npu only: harmless, so old launch scripts can be carried over, but nobody should think they work.
TORCH_ONLY = (
    "ASCEND_LAUNCH_BLOCKING",
    "COMBINED_ENABLE",
    "CPU_AFFINITY_CONF",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "NPU_ASD_ENABLE",
    "PYTORCH_NPU_ALLOC_CONF",
    "TASK_QUEUE_ENABLE",
)
INSTEAD = {
    "ASCEND_LAUNCH_BLOCKING": "MS_DEV_LAUNCH_BLOCKING = 1 does this in MindSpore",
    "PYTORCH_NPU_ALLOC_CONF": "MS_ALLOC_CONF does this in MindSpore",
}
_GRAPH_MODE_ONLY = ("MS_ENABLE_TFT",)
_CODE_LOADING = re.compile(r"LD_.*|DYLD_.*|PYTHON.*|BASH_ENV|ENV|PATH|IFS|SHELLOPTS|GCONV_PATH")
LAUNCHER = (
    "MS_ROLE",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
    "MS_WORKER_NUM",
    "MS_NODE_ID",
    "RANK_ID",
    "RANK",
    "LOCAL_RANK",
)
RECIPE_KEYS = {
    "LOCAL_WORLD_SIZE": "launch.devices_per_node",
    "MASTER_ADDR": "launch.master",
    "MASTER_PORT": "launch.master",
    "NNODES": "launch.nodes",
    "NODE_RANK": "--node-rank of `qvl run`",
    "NPUS_PER_NODE": "launch.devices_per_node",
    "RANK_SIZE": "tp, pp and dp under [layout]",
    "WORLD_SIZE": "tp, pp and dp under [layout]",
}

# Variables of these families are read by CANN, HCCL, MindSpore or its log library. Their own list is longer than ours.
FAMILIES = ("ACLNN_", "ASCEND_", "GLOG_", "HCCL_", "HCCN_", "MINDSPORE_", "MS_")
# Variables of CANN's and MindSpore's own documentation that qvl does not check: no misspelling of another one.
UNCHECKED = (
    *("ASCEND_CACHE_PATH", "ASCEND_COREDUMP_SIGNAL", "ASCEND_GLOBAL_EVENT_ENABLE", "ASCEND_HOST_LOG_FILE_NUM"),
    *("ASCEND_LOG_DEVICE_FLUSH_TIMEOUT", "ASCEND_LOG_SAVE_MODE", "ASCEND_MAX_OP_CACHE_SIZE"),
    *("ASCEND_MODULE_LOG_LEVEL", "ASCEND_REMAIN_CACHE_SIZE_RATIO", "ASCEND_WORK_PATH", "GLOG_LOG_DIR"),
    *("GLOG_LOGFILE_MODE", "GLOG_LOGTOSTDERR", "GLOG_MAX_LOG_SIZE", "GLOG_STDERRTHRESHOLD", "HCCL_ALGO"),
    *("HCCL_ASYNC_ERROR_HANDLING", "HCCL_CONCURRENT_ENABLE", "HCCL_DEBUG_CONFIG", "HCCL_DESYNC_DEBUG"),
    *("HCCL_DIAGNOSE_ENABLE", "HCCL_ENTRY_LOG_ENABLE", "HCCL_EVENT_TIMEOUT", "HCCL_INTER_HCCS_DISABLE"),
    *(
        "HCCL_INTRA_PCIE_ENABLE",
        "HCCL_INTRA_ROCE_ENABLE",
        "HCCL_LOGIC_SUPERPOD_ID",
        "HCCL_MULTI_QP_THRESHOLD",
        "HCCL_OP_EXPANSION_MODE",
    ),
    *("HCCL_RDMA_PCIE_DIRECT_POST_NOSTRICT", "HCCL_RDMA_QPS_PER_CONNECTION", "HCCL_RDMA_QP_PORT_CONFIG_PATH"),
    *("HCCL_RDMA_RETRY_CNT", "HCCL_RDMA_SL", "HCCL_RDMA_TC", "MS_BUILD_PROCESS_NUM", "MS_COMPILER_CACHE_ENABLE"),
    *("MS_COMPILER_CACHE_PATH", "MS_COMPILER_OP_LEVEL", "MS_DEV_JIT_SYNTAX_LEVEL", "MS_ENABLE_GE", "MS_ENABLE_LCCL"),
    *("MS_ENABLE_NUMA",),
)
# Below this two names are two variables; HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT are at 0.84.
_CLOSE = 0.75
_MISSPELT = 0.88
# Names that are shorter are one letter away from too much.
_SHORTEST = 6


def sort_environment(merged: Merged) -> tuple[dict[str, Any], list[tuple[KeyPath, Problem]]]:
    """Give the recipe's values without the variables that are dealt with here, and a Problem or warning for each."""
    stated = merged.values.get("env")
    if not isinstance(stated, dict):
        return merged.values, []
    problems: list[tuple[KeyPath, Problem]] = []
    kept: dict[str, Any] = {}

    def tell(name: str, message: str, fix: str, severity: Severity) -> None:
        path = ("env", name)
        where = merged.where(path)
        problem = Problem(where=where, key=f"env.{name}", message=message, fix=fix, severity=severity)
        problems.append((path, problem))

    for name, value in stated.items():
        if (verdict := _verdict(name)) is not None:
            tell(name, *verdict)
        elif name in EnvSection.model_fields and (fault := value_fault(name, value)) is not None:
            tell(name, fault.message, fault.fix, "error")
        else:
            kept[name] = value
    for name, fault in missing_partners(stated).items():
        tell(name, fault.message, fault.fix, "error")
    for name, fault in without_effect(kept).items():
        tell(name, fault.message, fault.fix, "warning")
    return {**merged.values, "env": kept}, problems


def _verdict(name: str) -> tuple[str, str, Severity] | None:
    """Give message, fix and severity for a variable that is not passed on."""
    if name in TORCH_ONLY:
        fix = INSTEAD.get(name, "leave it out")
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
    if name in RECIPE_KEYS:
        return (
            f"is not set by hand: {RECIPE_KEYS[name]} states it",
            f"leave it out and use {RECIPE_KEYS[name]}",
            "error",
        )
    if name == "ASCEND_VISIBLE_DEVICES":
        message = "is read by the container runtime when a container starts, not by the workers; it is not passed on"
        return message, "ASCEND_RT_VISIBLE_DEVICES chooses the devices of a run", "warning"
    if name in LAUNCHER:
        return "is set by the launcher for each process", "leave it out", "error"
    if _CODE_LOADING.fullmatch(name):
        message = "decides which code the workers load; a recipe may not set it"
        return message, "set it in the shell that starts qvl, if you must", "error"
    return _unknown(name)


def _unknown(name: str) -> tuple[str, str, Severity] | None:
    """Warn of a misspelt variable, and of one of a known family that is not in our list; other names are no keys."""
    if name in EnvSection.model_fields:
        return None
    meant = closest_variable(name)
    guess = _guess(meant)
    if not name.upper().startswith(FAMILIES):
        message = "is no variable that qvl knows; it is not passed on"
        return (message, guess, "warning") if meant else None
    fix = guess if meant else "set it in the shell that starts qvl, if the workers need it"
    return "is not among the variables that qvl knows and checks; it is not passed on", fix, "warning"


def _guess(meant: str) -> str:
    """Say what to do about a name that was meant to be a known one; "" where it was none."""
    if not meant:
        return ""
    if meant in RECIPE_KEYS:
        return f"use {RECIPE_KEYS[meant]} for {meant}"
    if meant in EnvSection.model_fields:
        return f"did you mean env.{meant}?"
    verdict = _verdict(meant)
    return f"did you mean {meant}? {verdict[1] if verdict else 'leave it out'}"


def closest_variable(name: str) -> str:
    """Give the known variable that a name was probably meant to be; "" where none is close."""
    written = name.upper()
    others = (*TORCH_ONLY, *RECIPE_KEYS, *LAUNCHER, *_GRAPH_MODE_ONLY, "ASCEND_VISIBLE_DEVICES")
    known = {known.upper(): known for known in (*EnvSection.model_fields, *others)}
    if written in UNCHECKED or written in known:
        return known.get(written, "")
    near = [one for one in known if _is_near(written, one)]
    # What has no effect here is never the better guess for a name that only looks a little like it.
    likely = [one for one in known if known[one] not in (*TORCH_ONLY, *_GRAPH_MODE_ONLY, "ASCEND_VISIBLE_DEVICES")]
    cutoff = _CLOSE if written.startswith(FAMILIES) else _MISSPELT
    found = difflib.get_close_matches(written, near or likely, n=1, cutoff=0.0 if near else cutoff)
    return known[found[0]] if found else ""


def _is_near(written: str, known: str) -> bool:
    if len(known) < _SHORTEST:
        return False
    return one_edit_apart(written, known) or written.replace("_", "") == known.replace("_", "")


def one_edit_apart(left: str, right: str) -> bool:
    """Tell whether one letter dropped, added, changed, or two neighbours swapped, makes one text of the other."""
    if left == right or abs(len(left) - len(right)) > 1:
        return False
    same = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    a, b = left[same:], right[same:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
