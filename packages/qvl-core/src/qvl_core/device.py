"""The decision Ascend or CPU, and what has to be set before MindSpore is imported.

Nothing here is kept in the module: the decision stands in the environment variable QVL_DEVICE, so that worker
processes inherit it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

from qvl_core.errors import NotInstalledError

Device = Literal["ascend", "cpu"]

DEVICE_VARIABLE = "QVL_DEVICE"
# MindSpore versions that our tests run on; the ends of the range are what the sessions `minimum` and `tests` use.
OLDEST_MINDSPORE = (2, 7)
NEWEST_MINDSPORE = (2, 10)
# Without it PyNative's launch threads fight over the cores: a small training step takes 4 to 14 times as long.
CPU_ENVIRONMENT = {"MS_DEV_HOST_BLOCKING_RUN": "1"}
# Below this many parameters an operation is too small to share: MindSpore's pool threads only spin (half of the CPU
# time of a tiny training step). Measured on the tiny model alone, 0.4 million parameters.
SMALL_MODEL = 5_000_000


def prepare(device: Device | None = None) -> Device:
    """Decide the device, set the environment that it needs, and return it. Call before mindspore is imported.

    None keeps what an earlier call (or QVL_DEVICE) decided, and otherwise takes Ascend where a device node exists.
    Values that the user has set already stay. Raises ValueError for any other name.
    """
    chosen = device or os.environ.get(DEVICE_VARIABLE) or _found()
    if chosen not in ("ascend", "cpu"):
        raise ValueError(f'device is {chosen!r}; it has to be "ascend" or "cpu" ({DEVICE_VARIABLE})')
    os.environ[DEVICE_VARIABLE] = chosen
    if chosen == "cpu":
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    return cast(Device, chosen)


def confine_small_model(parameters: int) -> bool:
    """Keep a small model's process on one of its cores; tell whether that was done. Call before mindspore is imported.

    Done on CPU only, and not once mindspore is there: its threads would stay where they are. On two cores a training
    step of the tiny model takes 0.8 of the time, and far less where other processes want the cores too.
    """
    can = hasattr(os, "sched_setaffinity") and "mindspore" not in sys.modules and current_device() == "cpu"
    if not can or parameters >= SMALL_MODEL:
        return False
    cores = sorted(os.sched_getaffinity(0))
    # Two processes started one after the other get different cores.
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
    return True


def current_device() -> Device:
    """Return the device that was decided; decide now if none was."""
    return prepare(None)


def require_mindspore() -> ModuleType:
    """Return the mindspore module, set to the decided device and to PyNative mode.

    Raises NotInstalledError where mindspore is missing or numpy is 2 or newer. A MindSpore outside 2.7 to 2.10 gets a
    warning: run `python -m qvl_core.conformance` on it before you trust it.
    """
    late = "mindspore" in sys.modules
    device = current_device()
    _check_numpy()
    _check_mindspore()
    mindspore = importlib.import_module("mindspore")
    if late and device == "cpu":
        # The variable is read at import; someone imported mindspore before us, so ask its runtime.
        mindspore.runtime.launch_blocking()
    _set_device(mindspore, device)
    return mindspore


def _set_device(mindspore: ModuleType, device: Device) -> None:
    """Point MindSpore at the device; leave a device that someone has set already."""
    target = "Ascend" if device == "ascend" else "CPU"
    try:
        if mindspore.get_context("device_target") != target:
            mindspore.set_device(target)
    except (RuntimeError, ValueError) as error:
        raise NotInstalledError(
            f"MindSpore cannot use the device {target}: {str(error).splitlines()[0]}\n"
            f"  fix: install the MindSpore build that pairs with your CANN, or run on the CPU: "
            f'[launch] device = "cpu" (or {DEVICE_VARIABLE}=cpu)'
        ) from error
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)


def _found() -> Device:
    """Tell whether an Ascend NPU's device node exists on this machine."""
    return "ascend" if any(Path("/dev").glob("davinci[0-9]*")) else "cpu"


def _check_numpy() -> None:
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise NotInstalledError(
            f"numpy {version} is installed; MindSpore {OLDEST_MINDSPORE[0]}.{OLDEST_MINDSPORE[1]} to "
            f"{NEWEST_MINDSPORE[0]}.{NEWEST_MINDSPORE[1]} needs numpy 1\n  fix: pip install 'numpy<2'"
        )


def _check_mindspore() -> None:
    if importlib.util.find_spec("mindspore") is None:
        raise NotInstalledError(
            "MindSpore is not installed; this command runs a model and needs it\n"
            "  fix: on a CPU box: pip install 'qvl-core[mindspore]'\n"
            "       with an Ascend NPU: the build that pairs with your CANN, see https://www.mindspore.cn/install"
        )
    try:
        text = importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        warnings.warn("mindspore has no version of its own here (not installed by pip): unchecked", stacklevel=3)
        return
    found = tuple(int(part) for part in text.split(".")[:2])
    if not OLDEST_MINDSPORE <= found <= NEWEST_MINDSPORE:
        warnings.warn(
            f"MindSpore {text} is outside the tested range 2.7 to 2.10: run `python -m qvl_core.conformance` first, "
            "some versions have operations that are silently wrong",
            stacklevel=3,
        )
