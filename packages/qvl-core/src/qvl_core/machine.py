"""What a run is computed on, for its record: the machine, what drives its devices, and variables that change results.

Only files and names are looked at, so that it costs milliseconds and works on a machine without devices. Of several
machines, it is the one that the command was given on.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Container, Mapping
from pathlib import Path

from qvl_core.device import CPU_ENVIRONMENT
from qvl_core.input_file import printable

TOOLKIT_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_DRIVER_INFO = Path("/usr/local/Ascend/driver/version.info")
# What files of CANN and its driver say, best first: `version_dir=8.2.RC1` is the release, `Version=8.2.0.0.201` beside
# it the build of one part (7.6 in CANN 8.0); `[7.6.0.1.220:8.0.0]` in version.cfg is both, and its `# version: 1.0` of
# the file.
_VERSIONS = (
    re.compile(r"(?im)^\W*version_dir\W+(\d[\w.]*)"),
    re.compile(r"(?im)^\W*(?:toolkit|opp|runtime)_running_version\W+[\w.]+:(\d[\w.]*)\]"),
    re.compile(r"(?im)^[^\w#\n]*version\W+(\d[\w.]*)"),
)
# Where the parts of CANN state their version; the folders' names are those of the machine, `aarch64-linux`.
_TOOLKIT_FILES = ("*/ascend_toolkit_install.info", "share/info/ascend_toolkit_install.info", "version.*")
_PART_FILES = ("toolkit/version.info", "compiler/version.info", "runtime/version.info")
# `cann-8.5.0`, and `8.2.RC1` below ascend-toolkit.
_VERSION_FOLDER = re.compile(r"(?:cann-)?(\d+\.\d[\w.]*)$")
_CPU_NAME = re.compile(r"(?m)^(?:model name|Model Name|cpu model)\s*:\s*(.+)$")
# How sums are dealt to threads is how they are rounded.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OURS = ("QVL_KERNELS",)
# Nothing of these families is secret today; what is named so one day shall not get into a file that is passed on.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|KEY|AUTH", re.IGNORECASE)
_MOST_VALUE = 300
_MOST_VARIABLES = 100


def machine_facts(devices: Path = Path("/dev"), driver: Path = _DRIVER_INFO) -> dict[str, str]:
    """Name host, processor and usable cores, the working directory, and NPUs, CANN and driver where there are any."""
    home = toolkit_home()
    npus = len(list(devices.glob("davinci[0-9]*"))) if devices.is_dir() else 0
    facts = {
        "host": platform.node(),
        "processor": _processor(),
        "cores": str(_cores()),
        "directory": _directory(),
        "npus": str(npus) if npus else "",
        "cann": cann_version(home) if home else "",
        "driver": _version_in(driver),
    }
    return {name: printable(value, _MOST_VALUE) for name, value in facts.items() if value}


def result_variables(stated: Container[str] = (), environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give this shell's variables of CANN, HCCL, MindSpore, thread pools and the choice of kernels; no others.

    Those that a recipe has `stated` are left out, as its values are the workers', and so is what qvl sets by itself.
    """
    from qvl_core.recipe.environment_rules import FAMILIES, LAUNCHER

    found = os.environ if environment is None else environment
    counting = [name for name in found if name.startswith(FAMILIES) and name not in LAUNCHER]
    kept = [name for name in {*counting, *_THREADS, *_OURS} & found.keys() if not _SECRET.search(name)]
    names = sorted(name for name in kept if name not in stated and found[name] != CPU_ENVIRONMENT.get(name))
    return {name: printable(found[name], _MOST_VALUE) for name in names[:_MOST_VARIABLES]}


def toolkit_home(environment: Mapping[str, str] | None = None) -> Path | None:
    """Give the folder of CANN that this shell has sourced; None where there is none."""
    found = os.environ if environment is None else environment
    return next((Path(found[name]) for name in TOOLKIT_VARIABLES if found.get(name)), None)


def cann_version(home: Path) -> str:
    """Read the version of a CANN folder, from its files or its name; "" where it says none."""
    if found := stated_version(home, *_TOOLKIT_FILES, *_PART_FILES):
        return found
    named = _VERSION_FOLDER.match(real_path(home).name)
    return named[1] if named else ""


def real_path(path: Path) -> Path:
    """Give the path without links; as it is where they lead nowhere, or round in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def stated_version(folder: Path, *patterns: str) -> str:
    """Give the version that the first of these files of a folder states; "" where none does."""
    paths = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    return next((found for path in paths if (found := _version_in(path))), "")


def driver_version() -> str:
    """Read the version of the NPU driver from its folder; "" where there is none."""
    return _version_in(_DRIVER_INFO)


def _version_in(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((found[1] for pattern in _VERSIONS if (found := pattern.search(text))), "")


def _processor() -> str:
    try:
        found = _CPU_NAME.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""
