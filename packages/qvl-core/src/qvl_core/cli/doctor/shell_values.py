"""The variables of CANN, HCCL and MindSpore in this shell and in a recipe: misspelt, out of range, or risky."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor.row import Level, Row
from qvl_core.input_file import printable

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


def check_shell_values(environment: Mapping[str, str]) -> list[Row]:
    """Check what this shell passes on to workers: names that are close to a known one, and values out of range.

    One row for each fault.
    """
    from qvl_core.recipe.sections import EnvSection

    faults = []
    for name, text in sorted(environment.items()):
        if name in EnvSection.model_fields:
            if fault := value_fault(name, text):
                fix = f"unset {name}, or state it under [env], where ranges are checked"
                faults.append((f"{printable(name, 80)} is {text[:60]!r}: {fault}", fix))
        elif meant := _misspelt(name):
            fix = f"unset {name}: {meant} is set too" if meant in environment else f"did you mean {meant}?"
            faults.append((f"{printable(name, 80)} is no variable that is known", fix))
    if not faults:
        return [Row(check="shell-values", level="ok", evidence="variables of CANN, HCCL and MindSpore are in range")]
    return [Row(check="shell-values", level="warn", evidence=text, fix=printable(fix, 300)) for text, fix in faults]


def _misspelt(name: str) -> str:
    """Give the variable that workers read and that this one was probably meant to be; "" where there is none.

    Of names outside of the families only those that are one letter away: a shell is full of other things.
    """
    from qvl_core.recipe.environment_rules import FAMILIES, LAUNCHER, RECIPE_KEYS, closest_variable, one_edit_apart
    from qvl_core.recipe.sections import EnvSection

    if name in (*_BY_OTHERS, *LAUNCHER, *RECIPE_KEYS) or not (meant := closest_variable(name)) or meant == name:
        return ""
    written, read = name.upper(), meant in EnvSection.model_fields
    if written.startswith(FAMILIES):
        return "" if meant in (*LAUNCHER, *RECIPE_KEYS) else meant
    return meant if read and (one_edit_apart(written, meant.upper()) or _plain(written) == _plain(meant)) else ""


def _plain(name: str) -> str:
    return name.upper().replace("_", "")


def check_proxies(environment: Mapping[str, str]) -> Row:
    """Tell of proxies: qvl needs no network, but processes of one machine talk to each other by address."""
    found = [name for name in _PROXIES if environment.get(name)]
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if found and "127.0.0.1" not in exempt:
        evidence = f"{', '.join(found)} is set, and no_proxy does not name 127.0.0.1"
        return Row(check="proxies", level="warn", evidence=evidence, fix="export no_proxy=localhost,127.0.0.1")
    return Row(check="proxies", level="ok", evidence="none in the way" if not found else "local addresses are exempt")


def check_hccl(
    recipe: Recipe | None, environment: Mapping[str, str], interfaces: Sequence[str] | None = None
) -> list[Row]:
    """Check that HCCL's values are in range, fit each other and the recipe, and name what this machine has.

    One row for each fault.
    """
    values = {name: value for name, value in environment.items() if name.startswith("HCCL_")}
    if recipe is not None:
        values |= {name: value for name, value in recipe.env.variables().items() if name.startswith("HCCL_")}
    wrong = dict(_range_faults(values))
    # What has no legal value is not looked at twice.
    values = {name: value for name, value in values.items() if name not in wrong}
    faults = [
        *wrong.values(),
        *_exec_faults(values),
        *_recipe_faults(values, recipe),
        *_place_faults(values, [name for _, name in socket.if_nameindex()] if interfaces is None else interfaces),
    ]
    if not faults:
        stated = ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "all at their defaults"
        return [Row(check="hccl-values", level="ok", evidence=stated[:300])]
    levels: dict[bool, Level] = {True: "fail", False: "warn"}
    return [
        Row(check="hccl-values", level=levels[found.severe], evidence=found.text, fix=found.fix) for found in faults
    ]


def value_fault(name: str, text: str) -> str:
    """Say why a variable's text is not legal for it; "" where it is."""
    from qvl_core.recipe.environment_text import VariableError, value_of_text

    try:
        value_of_text(name, text)
    except VariableError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a value, what to do, and whether the run would fail of it."""

    text: str
    fix: str
    severe: bool = False


def _range_faults(values: Mapping[str, str]) -> Iterator[tuple[str, _Fault]]:
    from qvl_core.recipe.sections import EnvSection

    for name, text in sorted(values.items()):
        for_ever = name == "HCCL_EXEC_TIMEOUT" and _number(text) == 0
        if name in EnvSection.model_fields and not for_ever and (fault := value_fault(name, text)):
            legal = EnvSection.model_fields[name]
            example = f"{name} = {legal.examples[0]}" if legal.examples else f"unset {name}"
            yield name, _Fault(f"{name} is {text[:60]}: {fault}", f"for example {example}", severe=True)


def _exec_faults(values: Mapping[str, str]) -> Iterator[_Fault]:
    seconds = _number(values.get("HCCL_EXEC_TIMEOUT"))
    if seconds == 0:
        yield _Fault("HCCL_EXEC_TIMEOUT is 0: a hang lasts for ever", "HCCL_EXEC_TIMEOUT = 1800", severe=True)
    elif seconds is not None and seconds > LONG_EXEC_S:
        text = f"HCCL_EXEC_TIMEOUT is {seconds} s: a hang inside HCCL is found that late"
        yield _Fault(text, f"HCCL_EXEC_TIMEOUT = {LONG_EXEC_S} at most")


def _recipe_faults(values: Mapping[str, str], recipe: Recipe | None) -> Iterator[_Fault]:
    from qvl_core.recipe.environment_checks import free_beside, hccl_ports, is_too_few

    if recipe is None:
        return
    if recipe.launch.nodes > 1 and not (values.get("HCCL_SOCKET_IFNAME") or values.get("HCCL_IF_IP")):
        text = f"{recipe.launch.nodes} machines, and HCCL_SOCKET_IFNAME does not say over which interface"
        yield _Fault(text, 'HCCL_SOCKET_IFNAME = "eth0", the one that reaches the others')
    # What the recipe itself states is refused when it is loaded: here it meets the shell's values.
    base, stated = _number(values.get("HCCL_IF_BASE_PORT")), values.get("HCCL_HOST_SOCKET_PORT_RANGE")
    host, _, port = recipe.launch.master.rpartition(":")
    ranges = hccl_ports(base, stated)
    for first, last in ranges:
        if recipe.launch.device == "ascend" and first <= int(port) <= last:
            text = f"port {port} of launch.master is one of HCCL's, {first} to {last}"
            free = free_beside(ranges)
            fix = f"--set launch.master={host}:{free}" if free else "HCCL_HOST_SOCKET_PORT_RANGE=60000-60015"
            severe = not stated or is_too_few(ranges, recipe.launch.devices_per_node)
            yield _Fault(text, fix, severe=severe)


def _place_faults(values: Mapping[str, str], interfaces: Sequence[str]) -> Iterator[_Fault]:
    """Give what the values name and this machine does not have."""
    stated = values.get("HCCL_SOCKET_IFNAME", "")
    # `=eth0` is that one, `eth` any that begins so, `^` any other.
    wanted = [] if stated.startswith("^") else [name.strip() for name in stated.removeprefix("=").split(",")]
    if any(wanted) and not any(name and have.startswith(name) for name in wanted for have in interfaces):
        text = f"HCCL_SOCKET_IFNAME is {stated[:60]}; this machine has {', '.join(interfaces) or 'no interface'}"
        yield _Fault(text, "name the interface that reaches the others: ip -br addr", severe=True)
    if (address := values.get("HCCL_IF_IP")) and not _is_own(address):
        text = f"HCCL_IF_IP is {address[:60]}, which is no address of this machine"
        yield _Fault(text, "leave it out, or state this machine's own: ip -br addr", severe=True)
    if values.get("HCCL_WHITELIST_DISABLE") == "0":
        file = values.get("HCCL_WHITELIST_FILE", "")
        if not file or not Path(file).is_file():
            said = f"names {file[:80]}, which is no file" if file else "is not set"
            text = f"HCCL_WHITELIST_DISABLE is 0 and HCCL_WHITELIST_FILE {said}"
            yield _Fault(text, "HCCL_WHITELIST_DISABLE = 1, or name the file", severe=True)


def _is_own(address: str) -> bool:
    """Tell whether a socket can be bound to the address; no packet leaves."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except (OSError, UnicodeError):
            return False
    return True


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,12}", text.strip()) else None
