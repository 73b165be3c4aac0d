"""Every row of the doctor: a machine on which exactly this one is not fine, and what is told then."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GIB = 1 << 30
TOLD = Path(__file__).with_name("rows.txt")
BUSY = "| 0       0                 | 4711          | python                   | 3300                    |\n"


def _set(**values: Any) -> Callable[[Any], None]:
    def change(machine: Any) -> None:
        for name, value in values.items():
            setattr(machine, name, value)

    return change


def _into(name: str, **values: Any) -> Callable[[Any], None]:
    return lambda machine: getattr(machine, name).update(values)


def _file(path: str, content: str | bytes) -> Callable[[Any], None]:
    def change(machine: Any) -> None:
        place = machine.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def _failed(name: str, *, code: int = 1, out: str = "", err: str = "") -> Callable[[Any], None]:
    return lambda machine: setattr(machine, name, machine.done(code, out, err))


def _late(name: str) -> Callable[[Any], None]:
    return _set(**{name: subprocess.TimeoutExpired(["x"], 20)})


def _weights(header: bytes = b"") -> Callable[[Any], None]:
    """Weights of an HF folder that lack their tensors, or whose file begins with `header`."""

    def change(machine: Any) -> None:
        machine.recipe["init"] = "checkpoint"
        _file("weights/model.safetensors", header or struct.pack("<Q", 2) + b"{}")(machine)

    return change


def _both(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(machine: Any) -> None:
        for each in changes:
            each(machine)

    return change


def _media_root(place: str) -> Callable[[Any], None]:
    """The folder of the media is `place`, which is none."""

    def change(machine: Any) -> None:
        machine.recipe["media"] = place

    return change


def _two_machines(**values: Any) -> Callable[[Any], None]:
    """Two machines on a disk that both see, which meet at an address of another one."""

    def change(machine: Any) -> None:
        more = '[env]\nHCCL_SOCKET_IFNAME = "lo"\n'
        machine.recipe.update({"master": "node1:29501", "more": more, "nodes": "2"})
        machine.mounts, machine.addresses = ("lustre", "rw,flock"), ("10.0.0.9",)
        _set(**values)(machine)

    return change


# Number in our list of checks (0: not in it), row, level, what is broken.
EXPECTED = """[expected]
step_time_s = 500.0
where = "910B3, MindSpore 2.7.2"
when = "2026-01-31"
command = "qvl run r.toml"
"""
CASES: tuple[tuple[int, str, str, Callable[[Any], None]], ...] = (
    (1, "python", "fail", _set(python=(3, 9, 18))),
    (1, "python", "fail", _set(lacking=("ctypes",))),
    (1, "python", "fail", _both(_set(lacking=("ssl",)), _into("versions", pyarrow="25.0.0"))),
    (1, "python", "warn", _set(lacking=("ssl",))),
    (2, "requirements", "fail", _into("versions", **{"qvl-core": "0.2.0"})),
    (2, "requirements", "fail", _into("needs", **{"qvl-data": "pyarrow>=15"})),
    (2, "qvl-train", "fail", _into("versions", **{"qvl-train": None})),
    (2, "metadata", "fail", _set(damaged=(("numpy==1.26.4", "/a/site-packages/numpy-1.26.4.dist-info"),))),
    (2, "metadata", "warn", _set(damaged=(("other", "/a/site-packages/other.egg-info"),))),
    (2, "metadata", "warn", _set(damaged=(("te==0.4.0", "/cann/python/site-packages/te-0.4.0.dist-info"),))),
    (2, "copies", "fail", _set(copies=("/a/site-packages", "/b/src"))),
    (3, "plug-ins", "fail", _set(broken_plugin="SyntaxError: invalid syntax")),
    (4, "machine", "warn", _set(libc=("glibc", "2.17"))),
    (4, "machine", "fail", _set(libc=("", ""))),
    (5, "memory", "warn", _set(memory=int(1.5 * GIB))),
    (5, "shared-memory", "warn", _set(shared_memory=64 << 20)),
    (5, "open-files", "warn", _set(open_files=1024)),
    (6, "locale", "warn", _set(encoding="ascii")),
    (6, "clock", "warn", _set(now=0.0)),
    (6, "home", "warn", _into("variables", HOME="/proc/nowhere")),
    (6, "home", "warn", _set(umask=0o277)),
    (7, "variables", "warn", _into("variables", MS_ROLE="MS_WORKER", RANK_ID="3")),
    (7, "variables", "warn", _into("variables", LD_PRELOAD="/x.so")),
    (7, "proxies", "warn", _into("variables", https_proxy="http://proxy:3128")),
    (
        8,
        "mindspore",
        "fail",
        _both(_set(mindspore_there=False, starters=("mpiexec",)), _into("versions", mindspore=None)),
    ),
    (9, "mindspore-wheel", "fail", _set(elf="aarch64")),
    (10, "libstdcxx", "warn", _set(libstdcxx=b"GLIBCXX_3.4.25")),
    (11, "mindspore-version", "fail", _into("versions", mindspore="2.6.0")),
    (12, "mindspore-requirements", "fail", _into("needs", mindspore="protobuf>=7.34.1")),
    (12, "mindspore-requirements", "fail", _into("versions", numpy="1.24.0")),
    (13, "mindspore-run", "fail", _failed("mindspore_run", err="ImportError: libomp.so: cannot open")),
    (13, "mindspore-run", "fail", _late("mindspore_run")),
    (13, "mpi-run", "warn", _late("two_processes")),
    (14, "npu-devices", "fail", _set(nodes=("davinci0", "davinci_manager", "hisi_hdc"))),
    (14, "npu-devices", "fail", _both(_set(nodes=(), smi_there=False))),
    (15, "npu-permission", "fail", _set(closed=("davinci0",))),
    (16, "npu-smi", "fail", _set(smi_there=False)),
    (16, "npu-smi", "fail", _into("smi", health="Alarm")),
    (17, "cann", "warn", _into("variables", LD_LIBRARY_PATH="/usr/lib")),
    (17, "cann", "fail", _into("variables", ASCEND_HOME_PATH="/proc/nowhere/cann")),
    (18, "cann-ops", "fail", _set(operators=False)),
    (18, "cann-ops", "fail", _file("cann/x86_64-linux/ascend_ops_install.info", "version=8.3.RC1\n")),
    (18, "cann-ops", "warn", _file("cann/x86_64-linux/ascend_ops_install.info", "")),
    (18, "cann-ops", "warn", _file("cann/opp/built-in/op_impl/ai_core/tbe/kernel/ascend310p/x", "")),
    (19, "cann-pair", "fail", _set(cann="8.3.RC1")),
    (19, "cann-pair", "warn", _into("versions", mindspore="2.8.0")),
    (19, "cann-pair", "warn", _into("smi", driver="25.2.0")),
    (
        20,
        "npu-run",
        "fail",
        _both(_set(use_npu=True), _failed("device_run", err="EJ0003: Failed to bind the IP port.")),
    ),
    (21, "npu-busy", "warn", _into("smi", processes=BUSY)),
    (21, "npu-busy", "warn", _into("smi", processes=BUSY.rstrip() + " NA |\n")),
    (22, "visible-devices", "fail", _into("variables", ASCEND_RT_VISIBLE_DEVICES="0,0")),
    (23, "master-port", "fail", _set(taken=(29501,))),
    (23, "master-port", "warn", _into("recipe", master="localhost:40000")),
    (23, "hccl-ports", "warn", _set(taken=(60003,))),
    (23, "hccl-ports", "warn", _set(outgoing="32768 60999")),
    (24, "host-names", "fail", _set(addresses=("fe80::1",))),
    (24, "host-names", "warn", _two_machines(addresses=("127.0.1.1",))),
    (24, "host-names", "warn", _two_machines(addresses=("10.0.0.1",))),
    (25, "shared-folders", "warn", _two_machines(mounts=("ext4", "rw"))),
    (26, "hccl-values", "warn", _into("variables", HCCL_EXEC_TIMEOUT="7200")),
    (26, "hccl-values", "fail", _into("variables", HCCL_IF_IP="192.0.2.7")),
    (26, "shell-values", "warn", _into("variables", MS_NODE_TIMEOUT="2")),
    (26, "shell-values", "warn", _into("variables", HCCL_CONECT_TIMEOUT="1200")),
    (27, "recipe", "fail", _into("recipe", more="[env]\nHCCL_CONNECT_TIMEOUT = 60\n")),
    (28, "recipe-weights", "fail", _weights()),
    (28, "recipe-weights", "fail", _weights(b"version https://git-lfs.github.com/spec/v1\n")),
    (28, "recipe-weights", "fail", _weights(struct.pack("<Q", 1 << 62))),
    (30, "recipe-data", "fail", _both(_file("data.json", "version https://git-lfs.github.com/spec/v1\n"))),
    (
        30,
        "recipe-records",
        "fail",
        _failed("records", code=0, out='{"seen": 9, "read": 9, "wrong": 9, "first": ["x.json:1: y"]}'),
    ),
    (
        30,
        "recipe-records",
        "warn",
        _failed("records", code=0, out='{"seen": 9, "read": 9, "wrong": 1, "first": ["x.json:1: y"]}'),
    ),
    (30, "recipe-data", "fail", _media_root("data.json")),
    (31, "decoders", "fail", _failed("decoders_run", err="OSError: decoder jpeg not available")),
    (32, "output-folder", "fail", _both(_file("stone", ""), _into("recipe", output="stone/out"))),
    (32, "output-folder", "warn", _set(mounts=("nfs4", "rw,local_lock=all"))),
    (32, "output-folder", "warn", _set(mounts=("fuse.obsfs", "rw"))),
    (33, "output-space", "fail", _set(disk=1 << 20)),
    (34, "recipe-memory", "fail", _set(left_for_run=256 << 20)),
    (35, "device-memory", "fail", _into("smi", used="33", total="1024")),
    (35, "device-memory", "warn", _into("smi", used="33", total="1700")),
    (36, "time-lost", "warn", _into("recipe", more=EXPECTED)),
    (38, "secrets", "warn", _into("recipe", output="hf_" + "AbCdEfGhIjKlMnOpQrStUv")),
    (0, "starters", "warn", _set(starters=())),
    (0, "file-times", "warn", _set(file_times=1_000_000_000.0)),
    (0, "recipe-devices", "fail", _into("recipe", more='[env]\nASCEND_RT_VISIBLE_DEVICES = "5"\n')),
    (39, "trackers", "warn", _into("recipe", tensorboard="true")),
)


_NAMES = [f"{number:02}-{check}-{level}" for number, check, level, _ in CASES]
IDS = [f"{name}-{_NAMES[: place + 1].count(name)}" for place, name in enumerate(_NAMES)]


@pytest.mark.parametrize(
    ("check", "level", "change", "case"), [(*c[1:], i) for c, i in zip(CASES, IDS, strict=True)], ids=IDS
)
def test_exactly_this_row_is_not_fine_and_says_what_to_do(
    machine, monkeypatch, check, level, change, case: str
) -> None:
    change(machine)
    rows = [row for row in machine.rows(monkeypatch) if row.level in ("warn", "fail")]
    assert [(row.check, row.level) for row in rows] == [(check, level)]
    told = f"{case}\n  {rows[0].evidence}\n  fix: {rows[0].fix}\n".replace(str(machine.folder), "FOLDER")
    # Times and pages are those of the machine of the test, sizes of runs those of other tests.
    told = re.sub(r"by \d{6,} s|size \d+|[\d.]+ [KMGT]?i?B\b|[\d.]+ of them", "N", told)
    assert told in TOLD.read_text(encoding="utf-8"), f"not in {TOLD.name}:\n{told}"


def test_every_row_that_can_be_not_fine_has_such_a_machine(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others only inform, or are what `--compare` and broken programs give."""
    machine.use_npu = True
    never = {"host", *machine.versions, "tools", "determinism", "recipe-digest", "weights-digest", "nodes-agree"}
    assert {row.check for row in machine.rows(monkeypatch)} - never - {case[1] for case in CASES} == {"recipe-files"}


@pytest.mark.parametrize("change", [_set(use_npu=True), _two_machines()])
def test_machines_where_all_is_well(machine, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    change(machine)
    rows = machine.rows(monkeypatch)
    assert [row for row in rows if row.level in ("warn", "fail")] == []
    assert all(row.evidence for row in rows)


def test_what_follows_from_a_failure_is_skipped_with_its_name(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.nodes, machine.smi_there, machine.mindspore_there, machine.cann = (), False, False, ""
    machine.variables = {"ASCEND_RT_VISIBLE_DEVICES": "0", "ASCEND_HOME_PATH": "/proc/nowhere"}
    machine.versions["mindspore"] = None
    rows = {row.check: row for row in machine.rows(monkeypatch)}
    causes = {
        **dict.fromkeys(("mindspore-wheel", "mindspore-version", "libstdcxx", "mindspore-run"), "mindspore"),
        **dict.fromkeys(("mindspore-requirements",), "mindspore"),
        **dict.fromkeys(("npu-smi", "visible-devices", "recipe-devices"), "npu-devices"),
        "cann-ops": "cann",
    }
    for check, cause in causes.items():
        assert (check, rows[check].level) == (check, "skipped")
        assert rows[check].evidence.endswith(f"an earlier check failed: {cause}"), rows[check].evidence
        assert rows[cause].level == "fail"
