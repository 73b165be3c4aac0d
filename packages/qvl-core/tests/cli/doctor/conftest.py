"""A made-up NPU machine on which every row of the doctor is fine, and whose parts can be broken one by one."""

from __future__ import annotations

import functools
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core import machine as facts
from qvl_core.cli.doctor import (
    ascend,
    cann,
    data_rows,
    disks,
    examination,
    host,
    mindspore,
    needs,
    network,
    packages,
    programs,
    record_rows,
)
from qvl_core.cli.doctor.guard import Check
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import Requirement
from qvl_core.specs.load import shipped_config_path

# For `cann_folders` beside the tests: importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))

GIB = 1 << 30
SMI = """\
| npu-smi 25.5.0               Version: {driver}                                 |
| NPU   Name                | Health        | Power(W)    Temp(C)               |
| 0     910B3               | {health:<13} | 93.4        40                    |
| 0                         | 0000:C1:00.0  | 0           {used} / {total}          |
{processes}"""
RECIPE = """\
schema = 1
task = "sft"
model = {{ name = "qwen2.5-vl-tiny" }}
weights = {{ source = "weights", init = "{init}" }}
data = {{ sources = [{{ path = "data.json", media_root = "{media}" }}], sequence_length = 512, workers = 0 }}
[layout]
pp = 1
[train]
steps = 20
micro_batch = 2
global_batch = 8
[train.optimizer]
lr = 1e-3
[train.save]
every = 10
[train.log]
tensorboard = {tensorboard}
[launch]
device = "ascend"
devices_per_node = 1
nodes = {nodes}
master = "{master}"
[output]
dir = "{output}"
{more}"""
MOUNTS = "22 1 8:1 / / rw,relatime - {kind} /dev/sda1 {options}\n"
RECORD = {
    "conversations": [{"from": "human", "value": "say a"}, {"from": "gpt", "value": "a"}],
}


def done(code: int = 0, out: str = "ok", err: str = "") -> subprocess.CompletedProcess[str]:
    """What a child process gave."""
    return subprocess.CompletedProcess([], code, out, err)


@dataclass
class Machine:
    """What the machine is; a test changes a field before `rows` is called."""

    folder: Path
    done = staticmethod(done)
    python: tuple[int, ...] = (3, 11, 9)
    versions: dict[str, str | None] = field(
        default_factory=lambda: {
            **dict.fromkeys(packages.BRINGS, "0.1.0"),
            "mindspore": "2.7.2",
            **{"numpy": "1.26.4", "protobuf": "5.29.0", "pillow": "11.0.0", "av": "14.2.0", "rich": "13.9.0"},
        }
    )
    needs: dict[str, str] = field(
        default_factory=lambda: {"qvl-train": "qvl-core>=0.1,<0.2", "mindspore": "numpy>=1.25"}
    )
    copies: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    broken_plugin: str = ""
    libc: tuple[str, str] = ("glibc", "2.34")
    memory: int = 64 * GIB
    left_for_run: int = 64 * GIB
    shared_memory: int = 8 * GIB
    open_files: int = 1 << 20
    encoding: str = "utf-8"
    now: float = 1_800_000_000.0
    umask: int = 0o022
    elf: str = "x86_64"
    libstdcxx: bytes = b"GLIBCXX_3.4.26"
    mindspore_there: bool = True
    mindspore_run: Any = field(default_factory=done)
    device_run: Any = field(default_factory=done)
    decoders_run: Any = field(default_factory=done)
    two_processes: Any = field(default_factory=done)
    starters: tuple[str, ...] = ("msrun", "mpiexec")
    nodes: tuple[str, ...] = ("davinci0", *ascend.MANAGERS)
    closed: tuple[str, ...] = ()
    smi_there: bool = True
    smi: dict[str, str] = field(
        default_factory=lambda: {"driver": "25.5.0", "health": "OK", "used": "3349", "total": "65536", "processes": ""}
    )
    cann: str = "8.5.0"
    operators: bool = True
    taken: tuple[int, ...] = ()
    outgoing: str = "32768 58999"
    addresses: tuple[str, ...] = ("127.0.0.1",)
    recipe: dict[str, str] = field(
        default_factory=lambda: {
            **{
                "init": "random",
                "tensorboard": "false",
                "master": "localhost:29501",
                "output": "out",
                "more": "",
                "nodes": "1",
                "media": "media",
            },
        }
    )
    records: Any = field(default_factory=lambda: done(out=json.dumps({"seen": 9, "read": 9, "wrong": 0, "first": []})))
    file_times: float = 0.0
    disk: int = 1 << 50
    mounts: tuple[str, str] = ("ext4", "rw")
    variables: dict[str, str] = field(default_factory=dict)
    use_npu: bool = False

    def rows(self, patch: pytest.MonkeyPatch) -> list[Row]:
        """Examine the machine."""
        environment = self._build()
        # No deadlines: the machine that runs the tests may be slow.
        patch.setattr(examination, "guarded", _without_deadline)
        patch.setattr(ascend, "DEADLINE_S", 600.0)
        self._packages(patch)
        self._host(patch)
        self._mindspore(patch)
        self._npus(patch)
        self._network(patch)
        self._run(patch)
        return examination.examine(
            {**environment, **self.variables}, "r.toml", devices=self.folder / "dev", use_npu=self.use_npu
        )

    def _build(self) -> dict[str, str]:
        folder = self.folder
        for name in ("dev", "bin", "home", "media", "weights", "opp"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "media" / "x").touch()
        if not (folder / "weights" / "config.json").exists():
            shutil.copy(shipped_config_path("qwen2.5-vl-tiny"), folder / "weights" / "config.json")
        for name in self.nodes:
            (folder / "dev" / name).touch()
        if self.smi_there:
            (folder / "smi.txt").write_text(SMI.format(**self.smi))
            tool = folder / "bin" / "npu-smi"
            tool.write_text(f'#!/bin/sh\nwhile IFS= read -r l; do echo "$l"; done < {folder}/smi.txt\n')
            tool.chmod(0o755)
        (folder / "r.toml").write_text(RECIPE.format(**self.recipe))
        if not (folder / "data.json").exists():
            (folder / "data.json").write_text(json.dumps([RECORD]))
        (folder / "mounts").write_text(MOUNTS.format(kind=self.mounts[0], options=self.mounts[1]))
        environment = {"PATH": str(folder / "bin"), "HOME": str(folder / "home")}
        if self.cann:
            home = folder / "cann"
            home.mkdir(exist_ok=True)
            (home / "version.cfg").write_text(
                f"# version: 1.0\ntoolkit_running_version=[{self.cann}.1.9:{self.cann}]\n"
            )
            if self.operators:
                (home / "opp").mkdir(exist_ok=True)
                (home / "x86_64-linux").mkdir(exist_ok=True)
                stated = home / "x86_64-linux" / "ascend_ops_install.info"
                if not stated.exists():
                    stated.write_text(f"version={self.cann}\n")
            environment |= {"ASCEND_HOME_PATH": str(home), "LD_LIBRARY_PATH": f"/usr/lib:{home}/lib64"}
        return environment

    def _version(self, name: str) -> str | None:
        return self.versions.get(name)

    def _packages(self, patch: pytest.MonkeyPatch) -> None:
        for module in (packages, mindspore, cann, programs, record_rows, examination, host):
            patch.setattr(module, "installed_version", self._version)

        def requirements(name: str) -> list[Requirement]:
            line = self.needs.get(name, "")
            cut = next((i for i, letter in enumerate(line) if letter in "<>=~!"), len(line))
            return [Requirement(name=line[:cut], ranges=line[cut:])] if line else []

        patch.setattr(packages, "requirements_of", requirements)

        patch.setattr(packages, "damaged", lambda: ((name, Path(path)) for name, path in self.damaged))
        own = (Path("/a/site-packages"),)
        patch.setattr(packages, "check_metadata", functools.partial(packages.check_metadata, own))

        def copies() -> Row:
            if not self.copies:
                return Row(check="copies", level="ok", evidence="each of our packages is installed once")
            return real_copies()

        real_copies = packages.check_copies
        patch.setattr(packages, "check_copies", copies)
        if self.copies:
            places = [_Copy(place) for place in self.copies]
            real = packages.metadata
            stub = SimpleNamespace(distributions=lambda: places, entry_points=real.entry_points)
            patch.setattr(packages, "metadata", stub)
        found = _Plugins({"eval": ("qvl-eval", self.broken_plugin)} if self.broken_plugin else {})
        patch.setattr("qvl_core.cli.plugins.load_plugins", lambda *_, **__: found)

    def _host(self, patch: pytest.MonkeyPatch) -> None:
        one = functools.partial
        patch.setattr(host, "check_python", one(host.check_python, self.python, self.lacking))
        patch.setattr(host, "check_machine", one(host.check_machine, "Linux", "x86_64", self.libc))
        patch.setattr(host, "check_memory", one(host.check_memory, self.memory, 16))
        patch.setattr(host, "available_memory", lambda: self.left_for_run)
        patch.setattr(host, "check_shared_memory", one(host.check_shared_memory, self.shared_memory))
        patch.setattr(host, "check_open_files", one(host.check_open_files, self.open_files, 1 << 20))
        patch.setattr(host, "check_locale", one(host.check_locale, self.encoding))
        patch.setattr(host, "check_clock", one(host.check_clock, self.now))
        patch.setattr(host, "check_home", one(host.check_home, umask=self.umask))

    def _mindspore(self, patch: pytest.MonkeyPatch) -> None:
        package = self.folder / "site" / "mindspore"
        package.mkdir(parents=True, exist_ok=True)
        code = {"x86_64": 0x3E, "aarch64": 0xB7}[self.elf]
        head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, code)
        (package / "_c_expression.so").write_bytes(head + bytes(64))
        (package / "libstdc++.so.6").write_bytes(self.libstdcxx)
        real, there = mindspore.importlib.util.find_spec, self.mindspore_there

        def find(name: str, package: str | None = None) -> Any:
            if name == "mindspore":
                return object() if there else None
            if name == "tensorboardX":
                return None
            return object() if name == "mpi4py" else real(name, package)

        patch.setattr(mindspore.importlib.util, "find_spec", find)
        patch.setattr(mindspore, "_folder", lambda: package)
        patch.setattr(mindspore, "check_wheel", functools.partial(mindspore.check_wheel, machine="x86_64"))
        patch.setattr(mindspore, "check_libstdcxx", functools.partial(mindspore.check_libstdcxx, (package,)))
        patch.setattr(mindspore, "check_version", functools.partial(mindspore.check_version, python=self.python[:2]))
        patch.setattr(
            mindspore, "check_mindspore", functools.partial(mindspore.check_mindspore, run=_runner(self.mindspore_run))
        )
        patch.setattr(
            mindspore, "check_device_run", functools.partial(mindspore.check_device_run, run=_runner(self.device_run))
        )
        for name in ("msrun", "mpiexec"):
            (self.folder / "bin" / name).unlink(missing_ok=True)
        for name in self.starters:
            (self.folder / "bin" / name).write_text("#!/bin/sh\n")
            (self.folder / "bin" / name).chmod(0o755)
        patch.setattr(programs.sys, "executable", str(self.folder / "bin" / "python"))
        patch.setattr("qvl_core.launch.processes.real_command", lambda command, path: command)
        patch.setattr("qvl_core.launch_plan.mpiexec", lambda ranks, program: ("mpiexec", *program))
        patch.setattr(
            programs,
            "check_two_processes",
            functools.partial(programs.check_two_processes, run=_runner(self.two_processes)),
        )
        patch.setattr(
            programs, "check_decoders", functools.partial(programs.check_decoders, run=_runner(self.decoders_run))
        )

    def _npus(self, patch: pytest.MonkeyPatch) -> None:
        real = ascend.os.access

        def access(path: Any, mode: int) -> bool:
            return Path(path).name not in self.closed and real(path, mode)

        patch.setattr(ascend.os, "access", access)
        patch.setattr(cann, "ROOTS", ())
        patch.setattr(facts, "_DRIVER_INFO", self.folder / "none")

    def _network(self, patch: pytest.MonkeyPatch) -> None:
        proc = self.folder / "proc"
        proc.mkdir(exist_ok=True)
        (proc / "ip_local_port_range").write_text(self.outgoing)
        free = lambda port: port not in self.taken  # noqa: E731
        both: dict[str, Any] = {"free": free, "folder": proc}
        patch.setattr(network, "check_master_port", functools.partial(network.check_master_port, **both))
        patch.setattr(network, "check_hccl_ports", functools.partial(network.check_hccl_ports, **both))
        patch.setattr("qvl_core.launch.ports.owner_of", lambda port: "process 7 (python)")
        patch.setattr("qvl_core.launch.ports.free_port", lambda: 29502)
        patch.setattr(
            network,
            "check_host_names",
            functools.partial(
                network.check_host_names,
                resolve=lambda name: list(self.addresses),
                addresses=lambda: {"lo": "127.0.0.1", "eth0": "10.0.0.1", "eth1": "10.1.0.1"},
            ),
        )

    def _run(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(disks, "MOUNTS", self.folder / "mounts")
        for name in ("check_shared_folders", "promises_broken"):
            real = getattr(disks, name)
            patch.setattr(disks, name, functools.partial(real, mounts=self.folder / "mounts"))
        patch.setattr(needs, "promises_broken", disks.promises_broken)
        patch.setattr(needs, "check_space", functools.partial(needs.check_space, free=self.disk))
        real_times = data_rows.check_times
        if self.file_times:
            patch.setattr(data_rows, "check_times", functools.partial(real_times, now=self.file_times))
        patch.setattr(
            record_rows, "check_records", functools.partial(record_rows.check_records, run=_runner(self.records))
        )


@dataclass
class _Plugins:
    broken: Mapping[str, tuple[str, str]]
    names: tuple[str, ...] = ("eval",)


class _Copy:
    """A distribution of qvl-core in one place."""

    metadata: Mapping[str, str] = {"Name": "qvl-core"}
    version = "0.1.0"

    def __init__(self, place: str) -> None:
        self._place = place

    def locate_file(self, path: str) -> str:
        return self._place


def _without_deadline(check: Check, python: Sequence[Row] = ()) -> list[Row]:
    found = check.look()
    return [found] if isinstance(found, Row) else list(found)


def _runner(answer: Any) -> Callable[[Sequence[str], Mapping[str, str], float], Any]:
    def run(command: Sequence[str], environment: Mapping[str, str], deadline_s: float) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return run


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Give a machine on which every row is fine, and work in its folder."""
    monkeypatch.chdir(tmp_path)
    return Machine(folder=tmp_path)
