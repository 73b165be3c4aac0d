"""Facts of devices and links, each with its source: `devices.json`, or a file of the user's with the same keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qvl_core.errors import InputError, Problem
from qvl_core.json_file import read_json_object

FACTS = Path(__file__).with_name("devices.json")


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One kind of device. `near` is the link to another device of the machine, `far` to one of another machine.

    Rates are those of one device in one direction, GB = 1e9 bytes. `base_gib` is taken before a model is there,
    `buffer_mib` is the communication buffer, of which each communicator has two.
    """

    name: str
    memory_gib: float
    peak_tflops: float
    memory_gb_per_s: float
    near_gb_per_s: float
    far_gb_per_s: float
    near_latency_us: float
    far_latency_us: float
    devices_per_node: int
    base_gib: float
    buffer_mib: float
    sources: Mapping[str, str] = field(compare=False)


_NUMBERS = tuple(one.name for one in fields(DeviceFacts) if one.name not in ("name", "sources"))
_MAY_BE_ZERO = ("base_gib", "buffer_mib", "near_latency_us", "far_latency_us")


def device_facts(name: str, file: str | None = None) -> DeviceFacts:
    """Give the facts of a device; those that `file` states replace the shipped ones, or make up a new device.

    Raises InputError naming every wrong key of the file, or the names that are known.
    """
    shipped = _shipped()
    own = _read(Path(file)) if file is not None else {}
    known = sorted({*shipped, *own})
    if name not in known:
        near = get_close_matches(name, known, 1)
        raise InputError(
            Problem(
                where=file or "--device",
                key=f"devices.{name}" if file else "",
                message=f"there is no device {name!r}; known are {', '.join(known)}",
                fix=f"--device {near[0] if near else known[0]}",
            )
        )
    stated = own.get(name, {})
    sources = {key: f"stated in {file}" for key in stated if key in _NUMBERS}
    sources |= {str(key): str(text) for key, text in stated.get("sources", {}).items()}
    numbers = {key: value for key, value in stated.items() if key in _NUMBERS}
    if name in shipped:
        base = shipped[name]
        return replace(base, **numbers, sources=MappingProxyType({**base.sources, **sources}))
    return DeviceFacts(name=name, **numbers, sources=MappingProxyType(sources))


@cache
def _shipped() -> dict[str, DeviceFacts]:
    content = json.loads(FACTS.read_text(encoding="utf-8"))["devices"]
    return {name: DeviceFacts(name=name, **values) for name, values in content.items()}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    content = read_json_object(path, error_type=InputError, fix="a JSON object as qvl_core/planner/devices.json")
    devices = content.get("devices")
    if not isinstance(devices, dict) or not all(isinstance(values, dict) for values in devices.values()):
        raise InputError(
            Problem(
                where=str(path),
                key="devices",
                message="has no object `devices` with an object for each device",
                fix='{"devices": {"ascend-910b2": {"memory_gib": 60.0}}}',
            )
        )
    problems = [
        problem
        for name, values in devices.items()
        for key, value in values.items()
        for problem in _wrong(path, name, key, value)
    ]
    problems += [problem for name, values in devices.items() for problem in _incomplete(path, name, values)]
    if problems:
        raise InputError(problems)
    return devices


def _incomplete(path: Path, name: str, values: Mapping[str, Any]) -> list[Problem]:
    """Refuse a new device that does not state everything: most often a shipped one with its name misspelt."""
    missing = [key for key in _NUMBERS if key not in values]
    if name in _shipped() or not missing:
        return []
    near = get_close_matches(name, _shipped(), 1)
    fix = "state all of " + ", ".join(_NUMBERS)
    return [
        Problem(
            where=str(path),
            key=f"devices.{name}",
            message=f"is a new device and states no {', '.join(missing)}",
            fix=f"{near[0]}, if that is meant; or {fix}" if near else fix,
        )
    ]


def _wrong(path: Path, name: str, key: str, value: Any) -> list[Problem]:
    where, dotted = str(path), f"devices.{name}.{key}"
    if key == "sources":
        fine = isinstance(value, dict)
        return [] if fine else [Problem(where=where, key=dotted, message="is not an object", fix='"sources": {}')]
    if key not in _NUMBERS:
        near = get_close_matches(key, _NUMBERS, 1)
        fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(_NUMBERS)}"
        return [Problem(where=where, key=dotted, message="is not a fact that is known here", fix=fix)]
    least = 0 if key in _MAY_BE_ZERO else 1e-9
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not is_number or not least <= value <= 1e9 or (key == "devices_per_node" and value != int(value)):
        kind = "a whole number from 1" if key == "devices_per_node" else "a number above 0" if least else "a number"
        return [Problem(where=where, key=dotted, message=f"is {value!r}, not {kind}", fix=f"{kind} in {key}'s unit")]
    return []
