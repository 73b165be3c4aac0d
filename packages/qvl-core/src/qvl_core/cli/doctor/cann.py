"""CANN: its variables, its two halves, and whether MindSpore, CANN and driver pair."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version, release
from qvl_core.input_file import printable
from qvl_core.machine import TOOLKIT_VARIABLES, cann_version, real_path, stated_version, toolkit_home

# MindSpore -> (CANN, driver) as MindSpore's installation notes pair them.
PAIRS = {
    "2.7.0": ("8.2.RC1", "25.2.0"),
    "2.7.1": ("8.3.RC1", "25.3.RC1"),
    "2.7.2": ("8.5.0", "25.5.0"),
    "2.9.0": ("9.0.0", "26.0.RC1"),
}
OLDEST_MINDSPORE = (2, 7)
# CANN from here on is two packages, toolkit and operators; each leaves a file of its own where it was installed.
SPLIT = (8, 5)
OPERATOR_FILES = ("*/ascend_ops_install.info", "share/info/ascend_ops_install.info", "opp/version.*")
# Where CANN's installer puts it for all users; for one user it is $HOME/Ascend, and in conda $CONDA_PREFIX/Ascend.
ROOTS = (Path("/usr/local/Ascend"),)
ROOTS_TEXT = "/usr/local/Ascend, $HOME/Ascend, $CONDA_PREFIX/Ascend"
# Where the operators of each kind of chip lie, below the folder of the operators: `config/ascend910/cast.json` there is
# what the log of hiyouga/LlamaFactory#3796 misses, whose operators were another chip's.
KERNELS = Path("built-in") / "op_impl" / "ai_core" / "tbe" / "kernel"
# The beginning of a chip's name in npu-smi's table -> its folder; the longest that fits counts.
FOLDERS = {
    "910_93": "ascend910_93",
    "910_95": "ascend910_95",
    "910B": "ascend910b",
    "910": "ascend910",
    "310P": "ascend310p",
}
# One of these lies in the folder of CANN's libraries.
LIBRARIES = ("libascendcl.so", "libge_runner.so")

# The parts of CANN 8.0 count their builds from 7 and below, apart from CANN's own number.
_OWN_COUNT = 7
_CANDIDATE = re.compile(r"(?i)RC\d+")


def check_cann(environment: Mapping[str, str]) -> Row:
    """Check that CANN's variables are set in this shell, and that both of its halves are installed."""
    home = toolkit_home(environment)
    if home is None:
        script = set_env_script(environment)
        fix = f"source {script}, in this shell and in the job script"
        evidence = f"{TOOLKIT_VARIABLES[0]} is not set; CANN is there, its {script} was not sourced"
        if not script:
            evidence = f"{TOOLKIT_VARIABLES[0]} is not set, and no CANN is where it usually lies ({ROOTS_TEXT})"
            fix = "install the CANN that pairs with your MindSpore (docs/ascend.md), or source set_env.sh of yours"
        return Row(check="cann", level="fail", evidence=evidence, fix=fix)
    if not home.is_dir():
        fix = "source set_env.sh of the CANN version that is installed"
        what = "is no folder" if home.exists() else "does not exist"
        return Row(check="cann", level="fail", evidence=f"{printable(str(home), 200)} {what}", fix=fix)
    evidence = f"CANN {cann_version(home) or 'of unknown version'} in {home}"
    if not any(_reaches(home, path) for path in environment.get("LD_LIBRARY_PATH", "").split(":") if path):
        script = _script_of(home) or "set_env.sh of this CANN"
        fix = f"source {script}, which sets all of its variables, in this shell and in the job script"
        return Row(check="cann", level="warn", evidence=f"{evidence}, none of it in LD_LIBRARY_PATH", fix=fix)
    return Row(check="cann", level="ok", evidence=evidence)


def _reaches(home: Path, entry: str) -> bool:
    """Tell whether an entry of LD_LIBRARY_PATH is of this CANN: by its name, by where links lead, or by its libraries.

    `latest` may be one link, or a folder of links to each part: compiler -> ../8.2.RC1/compiler.
    """
    if Path(os.path.normpath(entry)).is_relative_to(os.path.normpath(home)):
        return True
    folder = real_path(Path(entry))
    try:
        parts = [real_path(path) for path in home.iterdir()]
    except OSError:
        parts = []
    if any(folder.is_relative_to(part) for part in (real_path(home), *parts)):
        return True
    # os.path, as a folder that is closed to us raises nothing there.
    if not any(os.path.isfile(folder / name) for name in LIBRARIES):  # noqa: PTH113
        return False
    # `8.5.0/aarch64-linux/lib64`: the version is stated two folders up at most.
    stated = next((found for path in (folder, *folder.parents[:2]) if (found := cann_version(path))), "")
    return not differ(cann_version(home), stated)


def _script_of(home: Path) -> str:
    """Give the set_env.sh that is there for this CANN, beside its version's folder or in it, as a shell takes it."""
    scripts = [folder / "set_env.sh" for folder in (home, home.parent)]
    return next((shlex.quote(str(path)) for path in scripts if os.path.isfile(path)), "")  # noqa: PTH113


def check_operators(environment: Mapping[str, str], chip: str = "") -> Row:
    """Check CANN's other half: the operators, of the toolkit's version, and those of this `chip` ("" unknown)."""
    name, home = "cann-ops", toolkit_home(environment)
    if home is None or not home.is_dir():
        return Row(check=name, level="skipped", evidence="an earlier check failed: cann")
    stated = cann_version(home)
    version = stated or "of unknown version"
    fix = "install the CANN ops package for your chip, " + (
        f"version {stated}" if stated else "of the toolkit's version"
    )
    if not (home / "opp").exists():
        return Row(check=name, level="fail", evidence=f"toolkit {version} in {home}, but no operators (opp)", fix=fix)
    operators = stated_version(home, *OPERATOR_FILES)
    if differ(stated, operators):
        evidence = f"toolkit {version} and operators (opp) {operators} in {home} are of two versions"
        return Row(check=name, level="fail", evidence=evidence, fix=fix)
    kernels = home / "opp" / KERNELS
    there = sorted({path.name for folder in (kernels, kernels / "config") for path in folder.glob("ascend*")})
    if release(stated) >= SPLIT and not there and not operators:
        evidence = f"toolkit {version} in {home}, but no sign of its operators: no ascend_ops_install.info, no kernels"
        return Row(check=name, level="warn", evidence=evidence, fix=fix)
    wanted = folder_of(chip)
    if wanted and there and wanted not in there:
        evidence = f"operators of {', '.join(there)} are installed; this chip is {chip}, whose are {wanted}"
        return Row(check=name, level="warn", evidence=evidence, fix=fix)
    return Row(check=name, level="ok", evidence=f"operators {operators or version} in {home / 'opp'}")


def differ(toolkit: str, operators: str) -> bool:
    """Tell whether two versions of CANN's halves cannot be of one release; an unknown one differs from none.

    `8.5.0` and the build `8.5.0.2.220` do not, `8.3.RC1` and `8.3.RC2` do; builds that start with 7 or less, as those
    of CANN 8.0, count on their own.
    """
    one, other = release(toolkit), release(operators)
    if not one or not other or other[0] <= _OWN_COUNT < one[0]:
        return False
    shorter = min(len(one), len(other))
    candidates = [_CANDIDATE.search(version) for version in (toolkit, operators)]
    marks = {found[0].upper() for found in candidates if found}
    return one[:shorter] != other[:shorter] or (len(marks) > 1 and all(candidates))


def folder_of(chip: str) -> str:
    """Give the folder of a chip's operators, `910B3` -> `ascend910b`; "" where it is not known."""
    bare = chip.removeprefix("Ascend")
    found = max((start for start in FOLDERS if bare.startswith(start)), key=len, default="")
    # A bare `Ascend910` is what npu-smi calls the newest ones, too; and `910_` begins the names of other generations.
    return "" if bare == "910" or (found == "910" and bare.startswith("910_")) else FOLDERS.get(found, "")


def set_env_script(environment: Mapping[str, str], roots: Sequence[Path] | None = None) -> str:
    """Give the set_env.sh of a CANN that is installed where it usually is, the newest of several; "" where none is."""
    own = [Path(environment[name]) / "Ascend" for name in ("HOME", "CONDA_PREFIX") if environment.get(name)]
    for root in (*(ROOTS if roots is None else roots), *own):
        # From 8.5 on `cann` leads to `cann-8.5.0`; a container may have the latter alone.
        versions = sorted(root.glob("cann-*"), key=lambda path: release(path.name.removeprefix("cann-")), reverse=True)
        for folder in (root / "cann", *versions, root / "ascend-toolkit", root / "latest"):
            script = folder / "set_env.sh"
            if script.is_file():
                return str(script)
    return ""


def check_pair(environment: Mapping[str, str], driver: str) -> Row:
    """Compare MindSpore, CANN and driver with the pairs of MindSpore's installation notes; unknown pairs warn."""
    home = toolkit_home(environment)
    mindspore, cann = installed_version("mindspore") or "", cann_version(home) if home else ""
    evidence = f"MindSpore {mindspore or '?'}, CANN {cann or '?'}, driver {driver or '?'}"
    pair = PAIRS.get(re.sub(r"\.post\d+$", "", mindspore))
    if not mindspore or not cann:
        return Row(check="cann-pair", level="skipped", evidence=evidence)
    if release(mindspore)[:2] < OLDEST_MINDSPORE:
        evidence += "; an earlier check failed: mindspore-version"
        return Row(check="cann-pair", level="skipped", evidence=evidence)
    if pair is None:
        known = ", ".join(f"{ours} with CANN {theirs}" for ours, (theirs, _) in PAIRS.items())
        fix = f"compare with the installation notes of this MindSpore version; pairs that we know: {known}"
        oldest = min(release(theirs)[:2] for theirs, _ in PAIRS.values())
        if release(cann) and release(cann)[:2] < oldest:
            # A newer MindSpore than those of the table pairs with no older CANN than they do.
            return Row(check="cann-pair", level="fail", evidence=f"{evidence}: this CANN is too old", fix=fix)
        return Row(check="cann-pair", level="warn", evidence=f"{evidence}: not in our table", fix=fix)
    fix = f"MindSpore {mindspore} pairs with CANN {pair[0]} and driver {pair[1]}: install those, or another MindSpore"
    if release(cann)[:2] != release(pair[0])[:2]:
        return Row(check="cann-pair", level="fail", evidence=f"{evidence}: they do not pair", fix=fix)
    if not cann.upper().startswith(pair[0]):
        return Row(check="cann-pair", level="warn", evidence=f"{evidence}: close to a pair, not one", fix=fix)
    if driver and release(driver)[:2] < release(pair[1])[:2]:
        fix = f"update driver and firmware to {pair[1]}"
        return Row(check="cann-pair", level="warn", evidence=f"{evidence}: the driver is older", fix=fix)
    return Row(check="cann-pair", level="ok", evidence=evidence)
