"""Our packages, what they require, and the commands and tasks that they add."""

from __future__ import annotations

import shlex
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from qvl_core.cli.doctor.row import Level, Row
from qvl_core.cli.doctor.versions import (
    Requirement,
    damaged,
    installed_version,
    is_leftover,
    normalised,
    requirements_of,
    satisfies,
)
from qvl_core.cli.plugins import COMMAND_GROUP
from qvl_core.machine import real_path
from qvl_core.tasks import TASK_PACKAGES

BRINGS = {
    "qvl-core": "recipes, layouts, the model",
    "qvl-convert": "conversion between HF and sharded weights",
    "qvl-data": "data for training and evaluation",
    "qvl-train": "training (task = 'sft')",
    "qvl-eval": "evaluation and inference (tasks eval and infer)",
}


def check_packages(task: str = "") -> list[Row]:
    """Check each of our packages: its version, or what its absence means; one that a recipe's `task` needs fails."""
    return [_package_row(name, task) for name in BRINGS]


def check_metadata(own: Sequence[Path] | None = None) -> Row:
    """Check that what pip wrote of each package can be read: an installation that was cut off leaves half of it.

    Only what lies in a folder that pip of this environment writes to, `own`, is proposed to be replaced: CANN brings
    packages in folders of its own, and other packages of the same name may be on the index.
    """
    found = list(dict.fromkeys(damaged()))
    if not found:
        return Row(check="metadata", level="ok", evidence="the metadata of every installed package can be read")
    places = ", ".join(str(path) for _, path in found[:4]) + (f" and {len(found) - 4} more" if found[4:] else "")
    owners = ("mindspore", *BRINGS)
    required = [each for owner in owners for each in requirements_of(owner)]
    ours = {normalised(name) for name in (*owners, *(each.name for each in required))}
    level: Level = "fail" if any(name.partition("==")[0] in ours for name, _ in found) else "warn"
    written = {real_path(folder) for folder in (_written_by_pip() if own is None else own)}
    mendable = [(name, path) for name, path in found if real_path(path.parent) in written][:4]
    if mendable:
        names = " ".join(dict.fromkeys(_asked(name, required) for name, _ in mendable))
        fix = f"rm -r {' '.join(shlex.quote(str(path)) for _, path in mendable)}; "
        fix += f"pip install --no-deps --force-reinstall {names}"
    else:
        fix = "pip of this environment has not written it: install anew what brought it, or take it off PYTHONPATH"
    return Row(check="metadata", level=level, evidence=f"cannot be read: {places}", fix=fix)


def _asked(name: str, required: Sequence[Requirement]) -> str:
    """Give what pip is asked for: where the version is not known, one that our packages take, and not the newest."""
    ranges = [] if "==" in name else [each.ranges for each in required if normalised(each.name) == name and each.ranges]
    return shlex.quote(name + ",".join(dict.fromkeys(ranges)))


def _written_by_pip() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))


def check_copies() -> Row:
    """Check that each of our packages is installed once: of two copies, the wrong one may be imported."""
    found: dict[str, list[str]] = {}
    unreadable = {path for _, path in damaged()}
    for distribution in metadata.distributions():
        folder = Path(str(getattr(distribution, "_path", "")))
        if is_leftover(folder) or folder in unreadable:
            continue
        name = normalised(distribution.metadata["Name"] or "")
        if name in BRINGS:
            found.setdefault(name, []).append(f"{distribution.version} in {distribution.locate_file('')}")
    twice = {name: copies for name, copies in found.items() if len(set(copies)) > 1}
    if twice:
        evidence = "; ".join(f"{name}: {', '.join(dict.fromkeys(copies))}" for name, copies in twice.items())
        names = " ".join(twice)
        fix = f"pip uninstall -y {names} until none is left, then install once"
        return Row(check="copies", level="fail", evidence=evidence[:400], fix=fix)
    return Row(check="copies", level="ok", evidence="each of our packages is installed once")


def check_requirements() -> Row:
    """Check that what our packages require is installed in the versions that they state."""
    return _requirements("requirements", tuple(BRINGS), "all requirements of our packages are met")


def check_mindspore_requirements() -> Row:
    """Check what MindSpore's own metadata asks for: protobuf and numpy are what other packages replace most."""
    name = "mindspore-requirements"
    if installed_version("mindspore") is None:
        return Row(check=name, level="skipped", evidence="MindSpore is not installed")
    return _requirements(name, ("mindspore",), "all requirements of MindSpore are met")


def _requirements(check: str, owners: tuple[str, ...], met: str) -> Row:
    faults, fixes = [], []
    for owner in owners:
        if installed_version(owner) is None:
            continue
        for requirement in requirements_of(owner):
            found = installed_version(requirement.name)
            wanted = f"{requirement.name}{requirement.ranges}"
            if found == "":
                # Of unknown version: the row of metadata has failed, and says how to install it.
                continue
            if found is None:
                faults.append(f"{owner} needs {wanted}, which is not installed")
            elif not satisfies(found, requirement.ranges):
                faults.append(f"{owner} needs {wanted}, found {found}")
            else:
                continue
            fixes.append(f"'{wanted}'")
    if not faults:
        return Row(check=check, level="ok", evidence=met)
    fix = f"pip install {' '.join(dict.fromkeys(fixes))}"
    return Row(check=check, level="fail", evidence="; ".join(faults), fix=fix)


def check_plugins() -> Row:
    """Check that the commands which other packages add can be loaded."""
    from qvl_core.cli.plugins import load_plugins

    found = load_plugins((), quiet=True)
    if found.broken:
        faults = [f"qvl {name} ({package}): {error}" for name, (package, error) in found.broken.items()]
        packages = " ".join(dict.fromkeys(package for package, _ in found.broken.values()))
        fix = f"pip install --force-reinstall {packages}"
        return Row(check="plug-ins", level="fail", evidence="; ".join(faults), fix=fix)
    count = len(metadata.entry_points(group=COMMAND_GROUP))
    evidence = f"{', '.join(sorted(found.names))} load" if count else "no other package adds a command"
    return Row(check="plug-ins", level="ok", evidence=evidence)


def _package_row(name: str, task: str) -> Row:
    version = installed_version(name)
    if version is not None:
        return Row(check=name, level="ok", evidence=f"{version or 'of unknown version'}: {BRINGS[name]}")
    if name == TASK_PACKAGES.get(task):
        evidence = f'not installed, and the recipe has task = "{task}"'
        return Row(check=name, level="fail", evidence=evidence, fix=f"pip install {name}")
    return Row(
        check=name, level="skipped", evidence=f"not installed; it brings {BRINGS[name]}", fix=f"pip install {name}"
    )
