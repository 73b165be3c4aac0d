"""Ascend NPUs: device nodes, `npu-smi`, and who is at work on them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qvl_core.cli.doctor.cann import check_cann, check_operators, check_pair, set_env_script
from qvl_core.cli.doctor.child import Runner, last_line, run_child
from qvl_core.cli.doctor.row import Row
from qvl_core.input_file import printable
from qvl_core.launch.known_messages import known_in
from qvl_core.machine import driver_version, toolkit_home

MANAGERS = ("davinci_manager", "devmm_svm", "hisi_hdc")
DEADLINE_S = 20.0
# A device's two lines: see device_states.
_DEVICE = re.compile(
    r"(?m)^\|\s*(?P<npu>\d+)(?:\s+(?P<name>\S+)|\s*\|\s*(?P<new_name>(?:Ascend|9\d0)\w*))\s*\|\s*(?P<health>[A-Za-z]+)"
    r"\s*\|[^\n]*(?:\n\|\s*(?P<chip>\d+)(?:\s+(?P<device>\d+))?\s*\|)?"
)
# A line of the table of processes: NPU and chip, process, name, MB, and from driver 26 on its number in a container;
# 950 has no chips: `| 0  | 1001  | python  | 256  | NA  |`.
_PROCESS = re.compile(
    r"(?m)^\|\s*(?P<npu>\d+)(?:\s+(?P<chip>\d+))?\s*\|\s*(?P<process>\d+)\s*\|\s*(?P<name>[^|]*?)\s*\|\s*\d+\s*\|"
    r"(?:\s*\w+\s*\|)?\s*$"
)
# Health of a device, as npu-smi words it, at which it still computes.
_STRAINED = ("Warning",)
CHECKS = ("npu-devices", "npu-permission", "npu-smi", "npu-busy", "visible-devices", "cann", "cann-ops", "cann-pair")
GROUP = "HwHiAiUser"


@dataclass(frozen=True, kw_only=True)
class SmiAnswer:
    """What `npu-smi info` said: its table, or why there is none and what to do. `absent` where it is not on PATH."""

    text: str = ""
    fault: str = ""
    fix: str = ""
    absent: bool = False

    @property
    def driver(self) -> str:
        found = re.search(r"Version:\s*([\w.]+)", self.text)
        return found[1] if found else ""

    @property
    def chip(self) -> str:
        """The name of the first device, `910B3`; "" where none is listed."""
        found = _DEVICE.search(self.text)
        return (found["name"] or found["new_name"]) if found else ""


Ask = Callable[[], SmiAnswer]


def ask_npu_smi(environment: Mapping[str, str], run: Runner = run_child) -> SmiAnswer:
    """Ask `npu-smi info` once, in a child process with a deadline."""
    tool = shutil.which("npu-smi", path=environment.get("PATH"))
    if tool is None:
        return SmiAnswer(absent=True, fault="npu-smi is not on PATH")
    try:
        done = run([tool, "info"], environment, DEADLINE_S)
    except subprocess.TimeoutExpired:
        fix = "the driver hangs: `dmesg | tail` as root on the host says why; often only a restart of the host helps"
        return SmiAnswer(fault=f"npu-smi info gives no answer within {DEADLINE_S:.0f} s", fix=fix)
    except OSError as error:
        fix = f"{tool} has to be the driver's own program, of this machine's architecture: mount it again or reinstall"
        return SmiAnswer(fault=f"npu-smi cannot be started: {error.strerror}", fix=fix)
    known = known_in([*done.stderr.splitlines(), *done.stdout.splitlines()])
    fix = known[0].known.fix if known else ""
    if done.returncode:
        return SmiAnswer(fault=f"exit {done.returncode}: {last_line(done)[:200]}", fix=fix)
    if known and not _DEVICE.search(done.stdout):
        return SmiAnswer(fault=printable(known[0].line, 200), fix=fix)
    return SmiAnswer(text=done.stdout)


def ascend_wanted(environment: Mapping[str, str], devices: Path = Path("/dev")) -> bool:
    """Tell whether this is an NPU machine, or means to be one."""
    return (
        any(devices.glob("davinci[0-9]*"))
        or toolkit_home(environment) is not None
        or bool(set_env_script(environment))
        or shutil.which("npu-smi", path=environment.get("PATH")) is not None
    )


def skipped() -> list[Row]:
    """Give the rows of a machine without any NPU."""
    evidence = "no NPU here: no /dev/davinci*, no npu-smi, no CANN"
    return [Row(check=name, level="skipped", evidence=evidence) for name in CHECKS]


def check_ascend(environment: Mapping[str, str], devices: Path, ask: Ask) -> list[Row]:
    """Check everything about the NPUs of a machine that has some, or means to."""
    smi = ask()
    return [
        check_devices(devices),
        check_permission(devices),
        check_npu_smi(smi, nodes=any(devices.glob("davinci[0-9]*"))),
        check_busy(smi.text),
        check_visible(environment, devices),
        check_cann(environment),
        check_operators(environment, smi.chip),
        # In a container npu-smi may lack where the driver's folder is mounted, and a driver that hangs has it too.
        check_pair(environment, smi.driver or driver_version()),
    ]


def check_devices(devices: Path) -> Row:
    """Check that the device nodes are there: containers get only those that they are started with."""
    found = sorted(path.name for path in devices.glob("davinci[0-9]*"))
    missing = [name for name in MANAGERS if not (devices / name).exists()]
    if found and not missing:
        return Row(check="npu-devices", level="ok", evidence=", ".join(found))
    lacking = ([] if found else ["davinci0"]) + missing
    evidence = f"missing in {devices}: {', '.join(lacking)}"
    options = " ".join(f"--device=/dev/{name}" for name in lacking)
    fix = f"in a container: start it with {options}; on the host: install the driver"
    return Row(check="npu-devices", level="fail", evidence=evidence, fix=fix)


def check_permission(devices: Path) -> Row:
    """Check that this user may open the device nodes; the driver gives them to a group."""
    nodes = [*sorted(devices.glob("davinci[0-9]*")), *(devices / name for name in MANAGERS)]
    there = [node for node in nodes if node.exists()]
    closed = [node.name for node in there if not os.access(node, os.R_OK | os.W_OK)]
    if not there:
        return Row(check="npu-permission", level="skipped", evidence=f"no device node in {devices}")
    if closed:
        evidence = f"this user may not open {', '.join(closed[:6])}"
        fix = f"sudo usermod -aG {GROUP} $USER, then log in again"
        return Row(check="npu-permission", level="fail", evidence=evidence, fix=fix)
    return Row(check="npu-permission", level="ok", evidence="the device nodes can be opened")


def check_busy(answer: str) -> Row:
    """Tell of processes on the NPUs; nobody else's process is ever touched."""
    if not answer:
        return Row(check="npu-busy", level="skipped", evidence="npu-smi did not answer")
    devices = {(x["npu"], x["chip"] or "0"): _device(x) for x in _DEVICE.finditer(answer)}
    found = [(x["npu"], x["chip"] or "0", x["process"], x["name"]) for x in _PROCESS.finditer(answer)]
    if not found:
        return Row(check="npu-busy", level="ok", evidence="no process on the NPUs")
    named = ", ".join(
        f"device {devices.get((npu, chip), npu)}: process {process} ({printable(name, 40)})"
        for npu, chip, process, name in found[:8]
    )
    fix = "choose other devices with [env] ASCEND_RT_VISIBLE_DEVICES, or wait for them"
    return Row(check="npu-busy", level="warn", evidence=named, fix=fix)


def check_visible(environment: Mapping[str, str], devices: Path) -> Row:
    """Check that ASCEND_RT_VISIBLE_DEVICES names devices that are here, each once."""
    name = "ASCEND_RT_VISIBLE_DEVICES"
    stated = environment.get(name, "")
    found = sorted(int(path.name[7:]) for path in devices.glob("davinci[0-9]*") if path.name[7:].isdecimal())
    if not stated:
        return Row(check="visible-devices", level="ok", evidence=f"{name} is not set: all {len(found)} devices")
    numbers = [part.strip() for part in stated.split(",")]
    if not found and len(set(numbers)) == len(numbers):
        evidence = f"{name} is {stated[:80]}; an earlier check failed: npu-devices"
        return Row(check="visible-devices", level="skipped", evidence=evidence)
    fix = f'export {name}="{",".join(map(str, found))}"' if found else f"unset {name}"
    wrong = [part for part in numbers if not part.isdecimal() or int(part) not in found]
    if wrong or len(set(numbers)) < len(numbers):
        fault = f"{', '.join(wrong)} not among {found}" if wrong else "a device is named twice"
        return Row(check="visible-devices", level="fail", evidence=f"{name} is {stated[:80]}: {fault}", fix=fix)
    return Row(check="visible-devices", level="ok", evidence=f"{name} is {stated}")


def check_npu_smi(smi: SmiAnswer, *, nodes: bool = True) -> Row:
    """Check that `npu-smi info` answers, and that all devices are healthy; `nodes` tells if there are device nodes."""
    if smi.absent and not nodes:
        evidence = "not on PATH either; an earlier check failed: npu-devices"
        return Row(check="npu-smi", level="skipped", evidence=evidence)
    if smi.absent:
        fix = "in a container: mount npu-smi and the driver folder read-only; on the host: install the driver"
        return Row(check="npu-smi", level="fail", evidence=smi.fault, fix=fix)
    if smi.fault:
        fix = smi.fix or "reinstall driver and firmware, or ask the administrator of the machine"
        return Row(check="npu-smi", level="fail", evidence=smi.fault, fix=fix)
    said = f"driver {smi.driver}" if smi.driver else "no version stated"
    states = device_states(smi.text)
    if not states:
        first = next((line.strip() for line in smi.text.splitlines() if line.strip()), "nothing")
        evidence = f"npu-smi info lists no device; it says: {printable(first, 80)}"
        fix = "run `npu-smi info` yourself: the driver sees no device, or this is another program of that name"
        return Row(check="npu-smi", level="fail", evidence=evidence, fix=fix)
    ill = [f"{device} is {state}" for device, state in states if state != "OK"]
    if not ill:
        return Row(check="npu-smi", level="ok", evidence=f"{said}; {len(states)} healthy device(s)")
    healthy = ",".join(device for device, state in states if state == "OK")
    evidence = f"{said}; device {', '.join(ill)}"
    if all(state in ("OK", *_STRAINED) for _, state in states):
        fix = "npu-smi info -t health -i N says of what it warns; runs may go on"
        return Row(check="npu-smi", level="warn", evidence=evidence, fix=fix)
    fix = f'[env] ASCEND_RT_VISIBLE_DEVICES = "{healthy}" leaves them out' if healthy else "reset the devices"
    return Row(check="npu-smi", level="fail", evidence=evidence, fix=fix)


def device_states(table: str) -> list[tuple[str, str]]:
    """Give (device number, health) of each device in the table of `npu-smi info`.

    A device has two lines, `| 0  910B3  | OK  | ...` and `| 0  | 0000:C1:00.0 | ...`; where an NPU has two chips (A3)
    the second one is `| 1  5  | 0000:9F:00.0 | ...`, chip and device number. The 950's are
    `| 0  | Ascend950DT  | OK  |` and `|  |  | NA  |`.
    """
    return [(_device(match), match["health"]) for match in _DEVICE.finditer(table)]


def _device(match: re.Match[str]) -> str:
    return match["device"] or match["npu"]
