"""What the texts of [env] may say, and which variables need each other; whole numbers and choices are the schema's.

Forms and ranges are those of the CANN documentation of each variable.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from qvl_core.recipe.sections.env import EnvSection, Switch

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_SWITCH_NAMES = frozenset(
    name for name, field in EnvSection.model_fields.items() if get_args(field.annotation)[:1] == (Switch,)
)
_SWITCHES = ("cluster_heartbeat", "stuck_detection")
# Name -> lowest and highest value.
_RETRY = {"MaxCnt": (1, 10), "HoldTime": (0, 60_000), "IntervalTime": (0, 60_000)}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a value is not legal, after the name; and what to state instead."""

    message: str
    fix: str


def value_fault(name: str, value: Any) -> Fault | None:
    """Give what is wrong with a value of one of EnvSection's variables beyond its type; None where nothing is."""
    if name == "HCCL_EXEC_TIMEOUT" and value == 0 and not isinstance(value, bool):
        message = "is 0; it has to be at least 1: 0 waits for ever, and a hang is never found"
        return Fault(message=message, fix=f"{name} = 1800, or leave it out: the runtime's default is 1836 s")
    if isinstance(value, (bool, float)) and name in _SWITCH_NAMES:
        # Python's 0 and 1 are equal to these, and the schema takes what is equal; the worker would see "true".
        written = str(value).lower() if isinstance(value, bool) else value
        example = EnvSection.model_fields[name].examples or [0]
        fix = f"{name} = {int(value) if value in (0, 1) else example[0]}"
        return Fault(message=f"is {written}; it can be 0 or 1", fix=fix)
    if isinstance(value, str) and not value.strip():
        return Fault(message="is empty", fix=f"leave {name} out, or state a value")
    check = _TEXTS.get(name)
    # A number is told by the schema to be no text, with itself in quotes as the fix: only where that would be legal.
    return check(name, str(value)) if check else None


def missing_partners(stated: Mapping[str, Any]) -> dict[str, Fault]:
    """Give a fault for each variable that fails without another one, or beside what another one says."""
    found = {}
    if stated.get("HCCL_WHITELIST_DISABLE") == 0 and not stated.get("HCCL_WHITELIST_FILE"):
        found["HCCL_WHITELIST_DISABLE"] = Fault(
            message="is 0: HCCL then asks for the list of peers, and HCCL_WHITELIST_FILE is not stated",
            fix='HCCL_WHITELIST_FILE = "hccl.json", or HCCL_WHITELIST_DISABLE = 1',
        )
    lower, upper = stated.get("MS_RETRY_INTERVAL_LOWER"), stated.get("MS_RETRY_INTERVAL_UPPER")
    if isinstance(lower, int) and isinstance(upper, int) and lower > upper:
        found["MS_RETRY_INTERVAL_LOWER"] = Fault(
            message=f"is {lower}, more than MS_RETRY_INTERVAL_UPPER = {upper}", fix=f"MS_RETRY_INTERVAL_LOWER = {upper}"
        )
    family, address = stated.get("HCCL_SOCKET_FAMILY"), stated.get("HCCL_IF_IP")
    wanted = "AF_INET6" if isinstance(address, str) and ":" in address else "AF_INET"
    if address and family in ("AF_INET", "AF_INET6") and family != wanted:
        found["HCCL_SOCKET_FAMILY"] = Fault(
            message=f'is "{family}", and HCCL_IF_IP = "{str(address)[:60]}" is an address of {wanted}',
            fix=f'HCCL_SOCKET_FAMILY = "{wanted}", or leave one of them out',
        )
    return found


def without_effect(stated: Mapping[str, Any]) -> dict[str, Fault]:
    """Give what to say of each variable that does nothing beside, or without, another one."""
    found = {}

    def tell(name: str, message: str) -> None:
        if name in stated:
            found[name] = Fault(message=f"has no effect: {message}", fix=f"leave {name} out")

    if stated.get("HCCL_HOST_SOCKET_PORT_RANGE"):
        tell("HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE wins over it")
    if stated.get("HCCL_WHITELIST_DISABLE", 1) == 1:
        tell("HCCL_WHITELIST_FILE", "peers are only checked with HCCL_WHITELIST_DISABLE = 0, here or in the shell")
    if not stated.get("HCCL_OP_RETRY_ENABLE"):
        tell("HCCL_OP_RETRY_PARAMS", "nothing is tried again unless HCCL_OP_RETRY_ENABLE is set, here or in the shell")
    if stated.get("MS_DISABLE_HEARTBEAT") == 1:
        tell("MS_NODE_TIMEOUT", "MS_DISABLE_HEARTBEAT = 1 turns the heartbeat off")
    return found


def _ports(name: str, text: str) -> Fault | None:
    wanted = Fault(
        message=f'is "{text[:60]}"; it has to be "auto" or a list of ports and ranges within 1 to 65535',
        fix=f'{name} = "60000-60015"',
    )
    for part in [] if text == "auto" else text.split(","):
        found = _PORTS.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= 65535:
            return wanted
    return None


def _address(name: str, text: str) -> Fault | None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return Fault(message=f'is "{text[:60]}", which is no IP address', fix=f'{name} = "10.0.0.1", or leave it out')
    return None


def _interface(name: str, text: str) -> Fault | None:
    if re.fullmatch(r"\^?=?[\w.:@-]+(,[\w.:@-]+)*", text):
        return None
    message = f'is "{text[:60]}", which names no network interface: eth0, or several with commas and no blanks'
    return Fault(message=message, fix=f'{name} = "eth0", the one that reaches the other machines')


def _retry_levels(name: str, text: str) -> Fault | None:
    if re.fullmatch(r"L[0-2]:[01](, ?L[0-2]:[01])*", text):
        return None
    message = f'is "{text[:60]}"; it has to give levels L0 to L2 a 0 or 1'
    return Fault(message=message, fix=f'{name} = "L1:1,L2:1"')


def _retry_numbers(name: str, text: str) -> Fault | None:
    for part in text.split(","):
        key, _, number = (piece.strip() for piece in part.partition(":"))
        low, high = _RETRY.get(key, (1, 0))
        if not re.fullmatch(r"\d{1,9}", number) or not low <= int(number) <= high:
            ranges = ", ".join(f"{key} {low} to {high}" for key, (low, high) in _RETRY.items())
            fix = f'{name} = "MaxCnt:1,HoldTime:5000,IntervalTime:1000"'
            return Fault(message=f'is "{text[:60]}"; it has to hold {ranges}', fix=fix)
    return None


def _detection(name: str, text: str) -> Fault | None:
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition(":"))
        if not key or not value or (key in _SWITCHES and value not in ("on", "off")):
            message = f'is "{text[:60]}"; it has to be name:value with commas, and on or off for {", ".join(_SWITCHES)}'
            return Fault(message=message, fix=f'{name} = "cluster_heartbeat:on"')
    return None


_TEXTS: dict[str, Callable[[str, str], Fault | None]] = {
    "HCCL_HOST_SOCKET_PORT_RANGE": _ports,
    "HCCL_NPU_SOCKET_PORT_RANGE": _ports,
    "HCCL_IF_IP": _address,
    "HCCL_SOCKET_IFNAME": _interface,
    "HCCL_OP_RETRY_ENABLE": _retry_levels,
    "HCCL_OP_RETRY_PARAMS": _retry_numbers,
    "HCCL_DFS_CONFIG": _detection,
}
