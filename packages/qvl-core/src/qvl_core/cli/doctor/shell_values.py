"""The variables of CANN, HCCL and MindSpore in this shell and in a recipe: misspelt, out of range, or risky."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qvl_core.cli.doctor.row import Row

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# A collective that takes longer than an hour is a hang, and this is how late it is found.
LONG_EXEC_S = 3600
# Set by CANN's own set_env.sh, drivers and launchers: many, and none of a person's making.
_BY_OTHERS = (
    *("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH", "ASCEND_CUSTOM_OPP_PATH"),
    *("ASCEND_VISIBLE_DEVICES", "ASCEND_RUNTIME_OPTIONS", "ASCEND_DRIVER_PATH", "ASCEND_OPS_PATH"),
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def check_shell_values(environment: Mapping[str, str]) -> Row:
    """Check what this shell passes on to workers: names that are close to a known one, and values out of range."""
    from qvl_core.recipe.environment_rules import FAMILIES, LAUNCHER, RECIPE_KEYS, closest_variable
    from qvl_core.recipe.sections import EnvSection

    faults, fixes = [], []
    for name, text in sorted(environment.items()):
        if name in EnvSection.model_fields:
            if fault := value_fault(name, text):
                faults.append(f"{name} is {text[:60]!r}: {fault}")
                fixes.append(f"unset {name}, or state it under [env], where ranges are checked")
        elif name.startswith(FAMILIES) and name not in (*_BY_OTHERS, *LAUNCHER, *RECIPE_KEYS):
            meant = closest_variable(name)
            if meant and meant not in environment:
                faults.append(f"{name} is no variable that is known")
                fixes.append(f"did you mean {meant}?")
    if not faults:
        return Row(check="shell-values", level="ok", evidence="variables of CANN, HCCL and MindSpore are in range")
    return Row(check="shell-values", level="warn", evidence="; ".join(faults), fix="; ".join(dict.fromkeys(fixes)))


def check_proxies(environment: Mapping[str, str]) -> Row:
    """Tell of proxies: qvl needs no network, but processes of one machine talk to each other by address."""
    found = [name for name in _PROXIES if environment.get(name)]
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if found and "127.0.0.1" not in exempt:
        evidence = f"{', '.join(found)} is set, and no_proxy does not name 127.0.0.1"
        return Row(check="proxies", level="warn", evidence=evidence, fix="export no_proxy=localhost,127.0.0.1")
    return Row(check="proxies", level="ok", evidence="none in the way" if not found else "local addresses are exempt")


def check_hccl(recipe: Recipe | None, environment: Mapping[str, str]) -> Row:
    """Check that HCCL's time-outs and ports are sensible, and fit each other and the recipe."""
    values = {name: value for name, value in environment.items() if name.startswith("HCCL_")}
    if recipe is not None:
        values |= {name: value for name, value in recipe.env.variables().items() if name.startswith("HCCL_")}
    faults = list(_hccl_faults(values, recipe))
    if not faults:
        stated = ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "all at their defaults"
        return Row(check="hccl-values", level="ok", evidence=stated[:300])
    level: Any = "fail" if any(severe for _, _, severe in faults) else "warn"
    return Row(
        check="hccl-values",
        level=level,
        evidence="; ".join(text for text, _, _ in faults),
        fix="; ".join(fix for _, fix, _ in faults),
    )


def value_fault(name: str, text: str) -> str:
    """Say why a variable's text is not legal for it; "" where it is."""
    from pydantic import TypeAdapter, ValidationError

    from qvl_core.recipe.sections import EnvSection

    value: Any = int(text) if re.fullmatch(r"-?\d{1,12}", text.strip()) else text
    if name == "TOKENIZERS_PARALLELISM":
        value = text.lower()
    field = EnvSection.model_fields[name]
    try:
        TypeAdapter(field.rebuild_annotation(), config={"strict": True}).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"][0].lower() + error.errors()[0]["msg"][1:]
    return ""


def _hccl_faults(values: Mapping[str, str], recipe: Recipe | None) -> list[tuple[str, str, bool]]:
    """Give (fault, fix, whether the run would fail of it)."""
    found = []
    seconds = _number(values.get("HCCL_EXEC_TIMEOUT"))
    if seconds == 0:
        found.append(("HCCL_EXEC_TIMEOUT is 0: a hang lasts for ever", "HCCL_EXEC_TIMEOUT = 1800", True))
    elif seconds is not None and seconds > LONG_EXEC_S:
        text = f"HCCL_EXEC_TIMEOUT is {seconds} s: a hang inside HCCL is found that late"
        found.append((text, f"HCCL_EXEC_TIMEOUT = 1800, or {LONG_EXEC_S} at most", False))
    connect = _number(values.get("HCCL_CONNECT_TIMEOUT"))
    if connect is not None and not 120 <= connect <= 7200:
        found.append((f"HCCL_CONNECT_TIMEOUT is {connect}; legal are 120 to 7200", "HCCL_CONNECT_TIMEOUT = 1200", True))
    if values.get("HCCL_WHITELIST_DISABLE") == "0" and not values.get("HCCL_WHITELIST_FILE"):
        text = "HCCL_WHITELIST_DISABLE is 0 without HCCL_WHITELIST_FILE"
        found.append((text, "HCCL_WHITELIST_DISABLE = 1, or name the file", True))
    if recipe is not None and recipe.launch.nodes > 1 and not values.get("HCCL_SOCKET_IFNAME"):
        text = f"{recipe.launch.nodes} machines, and HCCL_SOCKET_IFNAME does not say over which interface"
        found.append((text, 'HCCL_SOCKET_IFNAME = "eth0", the one that reaches the others', False))
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,12}", text.strip()) else None
