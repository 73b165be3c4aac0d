"""All rows of the doctor's report, and how they are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvl_core.cli.doctor import ascend, host, mindspore, needs, network, packages, programs, shell_values
from qvl_core.cli.doctor import recipe_rows as recipes
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version
from qvl_core.errors import EXIT_DONE, EXIT_NOT_INSTALLED, EXIT_WRONG_INPUT

# Rows about what a user wrote or named, not about the machine.
INPUT_CHECKS = ("recipe", "recipe-weights", "recipe-files")

_BEFORE_NPU = ("mindspore", "mindspore-wheel", "mindspore-run", "npu-devices", "npu-permission", "cann")


def examine(
    environment: Mapping[str, str],
    recipe: str | None = None,
    *,
    devices: Path = Path("/dev"),
    use_npu: bool = False,
) -> list[Row]:
    """Run every check, in the order in which their causes follow from each other. Takes some seconds.

    With `recipe`, the path of one, what that run needs is checked too; `devices` is where device nodes lie. An NPU
    is only computed on with `use_npu`: somebody else may be at work on it.
    """
    npu = ascend.ascend_wanted(environment, devices)
    runs_models = any(installed_version(name) for name in ("qvl-train", "qvl-eval"))
    loaded, recipe_rows = recipes.load(recipe) if recipe else (None, [])
    processes = -(-loaded.parallel.world_size // loaded.launch.nodes) if loaded else 0
    wants_npu = npu or bool(loaded and loaded.launch.device == "ascend")
    rows = [
        host.check_python(),
        *packages.check_packages(),
        packages.check_copies(),
        packages.check_requirements(),
        packages.check_plugins(),
        host.check_machine(),
        host.check_memory(),
        host.check_shared_memory(processes=processes),
        host.check_open_files(ascend=wants_npu, processes=processes),
        host.check_locale(),
        host.check_clock(),
        host.check_home(environment),
        host.check_variables(environment),
        shell_values.check_shell_values(environment),
        shell_values.check_proxies(environment),
        *mindspore.check_mindspore(environment, needed=runs_models, ascend=npu),
        programs.check_starters(environment),
        programs.check_decoders(environment),
        *ascend.check_ascend(environment, devices),
        network.check_master_port(loaded),
        network.check_hccl_ports(loaded, environment) if wants_npu else _not_wanted("hccl-ports"),
        network.check_host_names(loaded),
        shell_values.check_hccl(loaded, environment) if wants_npu else _not_wanted("hccl-values"),
    ]
    if use_npu:
        able = npu and not any(row.level == "fail" and row.check in _BEFORE_NPU for row in rows)
        missing = Row(check="npu-run", level="skipped", evidence="an earlier check failed, or there is no NPU")
        rows.append(mindspore.check_device_run(environment) if able else missing)
    rows += recipe_rows
    if loaded is not None:
        capacity = needs.npu_capacity(ascend.smi_output(environment))
        memory = host.available_memory()
        rows += recipes.rows(loaded, environment, devices=devices, memory=memory, capacity=capacity)
        if loaded.launch.nodes > 1:
            evidence = f"{loaded.launch.nodes} machines; only this one is looked at"
            fix = "run `qvl doctor --recipe R --json` on each, and compare versions, clock and weights"
            rows.append(Row(check="nodes-agree", level="skipped", evidence=evidence, fix=fix))
    return rows


def exit_code(rows: Sequence[Row]) -> int:
    """Give 2 where the recipe or its files are wrong, 3 where something of this machine fails, else 0."""
    wrong = [row for row in rows if row.level == "fail"]
    if any(row.check in INPUT_CHECKS for row in wrong):
        return EXIT_WRONG_INPUT
    return EXIT_NOT_INSTALLED if wrong else EXIT_DONE


def as_text(rows: Sequence[Row]) -> str:
    """Give one line a row, its fix below it, and a count."""
    width = max(len(row.check) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.level:<7}  {row.check:<{width}}  {row.evidence}")
        if row.fix:
            lines.append(f"{'':<7}  {'':<{width}}  fix: {row.fix}")
    counts = Counter(row.level for row in rows)
    total = f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed, {counts['skipped']} skipped"
    return "\n".join([*lines, "", total])


def as_json(rows: Sequence[Row]) -> str:
    """Give a JSON list of the rows."""
    return json.dumps([row.__dict__ for row in rows], indent=2, ensure_ascii=False)


def _not_wanted(check: str) -> Row:
    return Row(check=check, level="skipped", evidence="no NPU here, and no recipe that wants one")
