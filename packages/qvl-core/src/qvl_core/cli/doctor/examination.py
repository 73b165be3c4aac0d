"""All checks of the doctor, in the order in which their causes follow from each other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor import (
    ascend,
    data_rows,
    host,
    mindspore,
    needs,
    network,
    packages,
    programs,
    recipe_rows,
    record_rows,
    shell_values,
)
from qvl_core.cli.doctor.guard import PYTHON, Check, guarded
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# Checks that start a process end it themselves; the guard waits somewhat longer.
_CHILD_S = 2 * mindspore.DEADLINE_S
_CAUSES = {
    "recipe-devices": ("npu-devices", "visible-devices"),
    "output-space": ("output-folder",),
    "recipe-records": ("recipe-data",),
}
_BEFORE_NPU = (
    *("mindspore", "mindspore-wheel", "mindspore-requirements", "mindspore-run"),
    *("npu-devices", "npu-permission", "cann", "cann-ops"),
)


def examine(
    environment: Mapping[str, str],
    recipe: str | None = None,
    *,
    devices: Path = Path("/dev"),
    use_npu: bool = False,
) -> list[Row]:
    """Run every check. Takes some seconds; raises nothing, and no check is waited for without end.

    With `recipe`, the path of one, what that run needs is checked too; `devices` is where device nodes lie. An NPU
    is only computed on with `use_npu`: somebody else may be at work on it.
    """
    # First of all: other checks may break by what it lacks.
    python = guarded(Check(name=PYTHON, look=host.check_python))
    loaded, recipe_found = _load(recipe, python)
    about = _About(
        environment=environment,
        devices=devices,
        recipe=loaded,
        python=python,
        npu=any(row.level == "ok" for row in guarded(_npu_check(environment, devices), python)),
        # Asked once: a driver that hangs lets it run into its deadline.
        ask=functools.cache(lambda: ascend.ask_npu_smi(environment)),
    )
    rows = [row for check in _machine(about) for row in guarded(check, python)]
    if use_npu:
        rows += guarded(Check(name="npu-run", look=lambda: _npu_run(about, rows), deadline_s=_CHILD_S), python)
    rows += recipe_found
    if loaded is not None:
        for check in _run(about, loaded):
            cause = next((row.check for row in rows if row.level == "fail" and row.check in _causes(check.name)), "")
            rows += [_after(check.name, cause)] if cause else guarded(check, python)
    elif recipe:
        rows += [_after(name, "recipe") for name in recipe_rows.LATER]
    return rows


@dataclass(frozen=True, kw_only=True)
class _About:
    """What is examined. `npu` tells whether this is an NPU machine."""

    environment: Mapping[str, str]
    devices: Path
    recipe: Recipe | None
    python: Sequence[Row]
    npu: bool
    ask: ascend.Ask

    @property
    def wants_npu(self) -> bool:
        return self.npu or bool(self.recipe and self.recipe.launch.device == "ascend")

    @property
    def processes(self) -> int:
        """The recipe's processes on this machine; 0 without a recipe."""
        return -(-self.recipe.parallel.world_size // self.recipe.launch.nodes) if self.recipe else 0


def _load(path: str | None, python: Sequence[Row]) -> tuple[Recipe | None, list[Row]]:
    held: list[Recipe] = []

    def look() -> list[Row]:
        loaded, rows = recipe_rows.load(path or "")
        held.extend([loaded] if loaded else [])
        return rows

    rows = guarded(Check(name="recipe-load", look=look, needed=True), python) if path else []
    return (held[0] if held else None), rows


def _npu_check(environment: Mapping[str, str], devices: Path) -> Check:
    def look() -> Row:
        wanted = ascend.ascend_wanted(environment, devices)
        return Row(check="npu", level="ok" if wanted else "skipped", evidence="")

    return Check(name="npu", look=look)


def _machine(about: _About) -> list[Check]:
    """List what is checked without a recipe, and what a recipe only sharpens."""
    environment, recipe, wants_npu = about.environment, about.recipe, about.wants_npu
    runs_models = recipe is not None or any(installed_version(name) for name in ("qvl-train", "qvl-eval"))
    on_cpu = bool(recipe and recipe.launch.device == "cpu" and about.processes > 1)
    return [
        Check(name="host", look=host.check_host),
        Check(name=PYTHON, look=lambda: about.python),
        Check(name="packages", look=lambda: packages.check_packages(recipe.task if recipe else "")),
        Check(name="metadata", look=packages.check_metadata),
        Check(name="copies", look=packages.check_copies),
        Check(name="requirements", look=packages.check_requirements),
        # Commands of other packages are imported here: a broken one may take its time.
        Check(name="plug-ins", look=packages.check_plugins, deadline_s=_CHILD_S),
        Check(name="machine", look=host.check_machine),
        Check(name="memory", look=host.check_memory),
        Check(name="shared-memory", look=lambda: host.check_shared_memory(processes=about.processes)),
        Check(name="open-files", look=lambda: host.check_open_files(ascend=wants_npu, processes=about.processes)),
        Check(name="locale", look=host.check_locale),
        Check(name="clock", look=host.check_clock),
        Check(name="home", look=lambda: host.check_home(environment)),
        Check(name="variables", look=lambda: host.check_variables(environment)),
        Check(name="shell-values", look=lambda: shell_values.check_shell_values(environment)),
        Check(name="proxies", look=lambda: shell_values.check_proxies(environment)),
        Check(
            name="mindspore",
            look=lambda: mindspore.check_mindspore(environment, needed=runs_models, ascend=about.npu),
            deadline_s=_CHILD_S,
        ),
        Check(name="starters", look=lambda: programs.check_starters(environment)),
        Check(
            name="mpi-run",
            look=lambda: programs.check_two_processes(environment, wanted=on_cpu),
            deadline_s=_CHILD_S,
        ),
        Check(name="decoders", look=lambda: programs.check_decoders(environment), deadline_s=_CHILD_S),
        Check(
            name="npu-devices",
            look=lambda: ascend.check_ascend(environment, about.devices, about.ask),
            deadline_s=_CHILD_S,
        )
        if about.npu
        else Check(name="npu-devices", look=ascend.skipped),
        Check(name="master-port", look=lambda: network.check_master_port(recipe)),
        Check(
            name="hccl-ports",
            look=lambda: network.check_hccl_ports(recipe, environment) if wants_npu else _not_wanted("hccl-ports"),
        ),
        Check(name="host-names", look=lambda: network.check_host_names(recipe, environment=environment)),
        Check(
            name="hccl-values",
            look=lambda: shell_values.check_hccl(recipe, environment) if wants_npu else _not_wanted("hccl-values"),
        ),
        Check(name="tools", look=lambda: programs.check_tools(environment)),
    ]


def _run(about: _About, recipe: Recipe) -> list[Check]:
    """List what a recipe needs of this machine."""
    return [
        *recipe_rows.checks(recipe, about.environment, about.devices, about.ask),
        Check(name="recipe-data", look=lambda: data_rows.check_data(recipe)),
        Check(
            name="recipe-records",
            look=lambda: record_rows.check_records(recipe, about.environment),
            deadline_s=_CHILD_S,
        ),
        Check(name="file-times", look=lambda: data_rows.check_times(recipe)),
        Check(
            name="trackers",
            look=lambda: programs.check_trackers(tensorboard=bool(recipe.train and recipe.train.log.tensorboard)),
        ),
        Check(name="recipe-digest", look=lambda: data_rows.identity_rows(recipe)),
        Check(name="nodes-agree", look=lambda: needs.check_nodes(recipe)),
    ]


def _npu_run(about: _About, rows: Sequence[Row]) -> Row:
    if about.npu and not any(row.level == "fail" and row.check in _BEFORE_NPU for row in rows):
        return mindspore.check_device_run(about.environment)
    return Row(check="npu-run", level="skipped", evidence="an earlier check failed, or there is no NPU")


def _causes(check: str) -> tuple[str, ...]:
    """Give the checks whose failure is the cause of this one's."""
    return _CAUSES.get(check, ())


def _after(check: str, cause: str) -> Row:
    return Row(check=check, level="skipped", evidence=f"an earlier check failed: {cause}")


def _not_wanted(check: str) -> Row:
    return Row(check=check, level="skipped", evidence="no NPU here, and no recipe that wants one")
