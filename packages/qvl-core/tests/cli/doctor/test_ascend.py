"""NPU checks on made-up devices and a made-up npu-smi."""

from __future__ import annotations

from pathlib import Path

import pytest
from cann_folders import cann_folder
from qvl_core import machine
from qvl_core.cli.doctor import ascend, cann
from qvl_core.cli.doctor.needs import npu_capacity

# The layout of `npu-smi info` as CANN's documentation shows it, numbers made up.
INFO = """\
+------------------------------------------------------------------------------+
| npu-smi 25.2.0               Version: 25.2.0                                   |
+---------------------------+---------------+----------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)               |
+===========================+===============+==================================+
| 0     910B3               | OK            | 93.4        40                    |
| 0                         | 0000:C1:00.0  | 0           3349 / 65536          |
+===========================+===============+==================================+
| 1     910B3               | {second:<13} | 91.0        41                    |
| 0                         | 0000:01:00.0  | 0           3349 / 65536          |
+===========================+===============+==================================+
"""


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """A made-up /dev with one NPU."""
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in ("davinci0", *ascend.MANAGERS):
        (folder / name).touch()
    return folder


def _tool(folder: Path, output: str, code: int = 0) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "output").write_text(output)
    (folder / "npu-smi").write_text(
        f'#!/bin/sh\nread_all() {{ while IFS= read -r l; do echo "$l"; done; }}\n'
        f"read_all < {folder}/output\nexit {code}\n"
    )
    (folder / "npu-smi").chmod(0o755)
    return {"PATH": str(folder)}


def test_a_machine_without_npus_skips_everything(tmp_path: Path) -> None:
    assert not ascend.ascend_wanted({"PATH": ""}, tmp_path)
    rows = ascend.skipped()
    assert [row.check for row in rows] == list(ascend.CHECKS)
    assert {row.level for row in rows} == {"skipped"}


def test_device_nodes(devices: Path) -> None:
    assert ascend.check_devices(devices).level == "ok"
    (devices / "devmm_svm").unlink()
    row = ascend.check_devices(devices)
    assert row.level == "fail"
    assert "--device=/dev/devmm_svm" in row.fix


def _asked(environment: dict[str, str]):
    return ascend.check_npu_smi(ascend.ask_npu_smi(environment))


def test_npu_smi(tmp_path: Path) -> None:
    well = _asked(_tool(tmp_path / "a", INFO.format(second="OK")))
    assert (well.level, well.evidence) == ("ok", "driver 25.2.0; 2 healthy device(s)")
    ill = _asked(_tool(tmp_path / "b", INFO.format(second="Alarm")))
    assert ill.level == "fail"
    assert "device 1 is Alarm" in ill.evidence
    assert 'ASCEND_RT_VISIBLE_DEVICES = "0"' in ill.fix
    strained = _asked(_tool(tmp_path / "d", INFO.format(second="Warning")))
    assert (strained.level, "device 1 is Warning" in strained.evidence) == ("warn", True)
    failing = _asked(_tool(tmp_path / "c", "dcmi module initialize failed\n", 255))
    assert failing.evidence == "exit 255: dcmi module initialize failed"
    assert "not on PATH" in _asked({"PATH": ""}).evidence


def test_an_npu_smi_that_answers_nonsense_hangs_or_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, output in enumerate(("", "usage: something else\n", "\x1b[31m|||\n")):
        row = _asked(_tool(tmp_path / f"nonsense{number}", output))
        assert (row.level, "lists no device" in row.evidence) == ("fail", True)
        assert row.evidence.isprintable()
    folder = tmp_path / "bytes"
    environment = _tool(folder, "")
    (folder / "npu-smi").write_bytes(b"#!/bin/sh\nprintf '\\377\\376\\000| 0'\n")
    assert _asked(environment).level == "fail"
    (folder / "npu-smi").write_bytes(b"\x7fELF of another machine")
    assert "cannot be started" in _asked(environment).evidence
    (folder / "npu-smi").write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    monkeypatch.setattr(ascend, "DEADLINE_S", 0.3)
    environment["PATH"] += ":/usr/bin:/bin"
    assert "no answer within" in _asked(environment).evidence


def test_devices_of_npus_with_two_chips_have_numbers_of_their_own() -> None:
    # The layout as users show it in vllm-project/vllm-ascend#11896, numbers made up.
    row = "| {npu}     Ascend910           | {health:<13} | -           41                0    / 0             |\n"
    row += "| {chip}     {device}                   | 0000:9F:00.0  | 0           0    / 0    61879/ 65536  |\n"
    places = [(npu, chip, 2 * npu + chip) for npu in range(3) for chip in range(2)]
    table = "".join(
        row.format(npu=npu, chip=chip, device=device, health="Alarm" if device == 3 else "OK")
        for npu, chip, device in places
    )
    assert ascend.device_states(table) == [(str(n), "Alarm" if n == 3 else "OK") for n in range(6)]
    told = ascend.check_npu_smi(ascend.SmiAnswer(text=table))
    assert 'ASCEND_RT_VISIBLE_DEVICES = "0,1,2,4,5"' in told.fix
    assert "device 3 is Alarm" in told.evidence


def test_a_cann_that_is_no_folder_at_all_costs_no_other_row(tmp_path: Path, devices: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for home, said in (("file", "is no folder"), ("circle", "does not exist"), ("line\nbreak", "does not exist")):
        environment = {
            "PATH": "",
            "ASCEND_HOME_PATH": str(tmp_path / home),
            "LD_LIBRARY_PATH": str(tmp_path / "circle"),
        }
        rows = ascend.check_ascend(environment, devices, lambda: ascend.SmiAnswer(absent=True, fault="x"))
        assert [row.check for row in rows] == list(ascend.CHECKS)
        (row,) = [row for row in rows if row.check == "cann"]
        assert (row.level, row.evidence.endswith(said), row.evidence.isprintable()) == ("fail", True, True)


def test_the_chip_is_read_from_npu_smi() -> None:
    assert ascend.SmiAnswer(text=INFO.format(second="OK")).chip == "910B3"
    assert ascend.SmiAnswer(text="no table").chip == ""


def test_a_tool_that_is_absent_like_the_devices_is_their_row_alone() -> None:
    absent = ascend.ask_npu_smi({"PATH": ""})
    assert ascend.check_npu_smi(absent, nodes=False).level == "skipped"
    assert ascend.check_npu_smi(absent).level == "fail"


def test_the_driver_is_known_by_its_folder_where_npu_smi_does_not_answer(
    tmp_path: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cann, "installed_version", lambda name: "2.7.2")
    monkeypatch.setattr(machine, "_DRIVER_INFO", tmp_path / "version.info")
    (tmp_path / "version.info").write_text("Version=25.2.0\nascendhal_version=7.35.23\npackage_version=25.2.0\n")
    environment = {"PATH": "", **cann_folder(tmp_path / "cann", "8.5.0")}
    rows = {row.check: row for row in ascend.check_ascend(environment, devices, lambda: ascend.SmiAnswer(fault="x"))}
    assert rows["cann-pair"].evidence == "MindSpore 2.7.2, CANN 8.5.0, driver 25.2.0: the driver is older"


def test_processes_on_the_npus_are_told_and_left_alone() -> None:
    table = INFO.format(second="OK")
    assert ascend.check_busy(table).level == "ok"
    table += (
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |\n"
        "| 0       0                 | 4711          | python                   | 31000                   |\n"
    )
    row = ascend.check_busy(table)
    assert (row.level, row.evidence) == ("warn", "device 0: process 4711 (python)")


# Layouts as users of these drivers show them (vllm-project/vllm-ascend#12980, nyakang/nyaterm#268,
# hiyouga/LlamaFactory#8768), numbers made up; the last as nputop's tests have it.
A3_26 = """\
| npu-smi 26.0.rc2                            Version: 26.0.rc2                                                    |
| NPU   Name                | Health        | Power(W)             Temp(C)                 Hugepages-Usage(page)   |
| Chip  Phy-ID              | Bus-Id        | AICore(%)            Memory-Usage(MB)        HBM-Usage(MB)           |
+===========================+===============+======================================================================+
| 7     Ascend910           | OK            | 172.0                53                      0    / 0                |
| 0     14                  | 0000:81:00.0  | 0                    0    / 0                15503/ 65536            |
+------------------------------------------------------------------------------------------------------------------+
| 7     Ascend910           | OK            | -                    52                      0    / 0                |
| 1     15                  | 0000:83:00.0  | 0                    0    / 0                15242/ 65536            |
+===========================+===============+======================================================================+
| NPU     Chip              | Process id    | Process name       | Process memory(MB)    | Process id in container |
+===========================+===============+======================================================================+
| 7       0                 | 692318        | python3            | 12417                 | NA                      |
| 7       1                 | 692319        | python3            | 12417                 | 101                     |
"""
OLD_22 = """\
| npu-smi 22.0.4                   Version: 22.0.4                                          |
| NPU   Name           | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                 | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     910ProB        | OK            | 82.0        45                0    / 0             |
| 0                    | 0000:C1:00.0  | 0           945  / 15137      0    / 32768         |
+======================+===============+====================================================+
"""
A5 = """\
| npu-smi 99.0.rc1.b1    Version: 99.0.rc1.b1 |
| NPU ID | Name        | Health | Power(W) Temp(C) Hugepages-Usage(page) |
|        |             | Bus-Id | NPU Util(%) Memory-Usage(MB) HBM-Usage(MB) |
| 0      | Ascend950DT | OK     | 100.0 40 0 / 0 |
|        |             | NA     | 20 0 / 0 1024 / 8192 |
| 3      | Ascend950DT | Alarm  | 120.0 45 0 / 0 |
|        |             | NA     | 0 0 / 0 2048 / 8192 |
| NPU ID | Process id | Process name | Process memory(MB) | Process id in container |
| 0      | 1001       | python       | 256                | NA                      |
| 3      | 1002       | python       | 512                | 101                     |
| No running processes found in NPU 3 |
"""


@pytest.mark.parametrize(
    ("table", "driver", "chip", "states", "busy", "mib"),
    [
        (
            A3_26,
            "26.0.rc2",
            "Ascend910",
            [("14", "OK"), ("15", "OK")],
            ["14: process 692318", "15: process 692319"],
            65536,
        ),
        (OLD_22, "22.0.4", "910ProB", [("0", "OK")], [], 32768),
        (A5, "99.0.rc1.b1", "Ascend950DT", [("0", "OK"), ("3", "Alarm")], ["0: process 1001", "3: process 1002"], 8192),
    ],
)
def test_tables_of_several_drivers(
    table: str, driver: str, chip: str, states: list[tuple[str, str]], busy: list[str], mib: int
) -> None:
    answer = ascend.SmiAnswer(text=table)
    assert (answer.driver, answer.chip) == (driver, chip)
    assert ascend.device_states(table) == states
    assert npu_capacity(table) == mib << 20
    row = ascend.check_busy(table)
    assert row.level == ("warn" if busy else "ok")
    assert [part.removeprefix("device ").partition(" (")[0] for part in row.evidence.split(", ") if busy] == busy


@pytest.mark.parametrize(
    ("output", "code", "fix"),
    [
        (
            "DrvMngGetConsoleLogLevel failed. (g_conLogLevel=3)\ndcmi module initialize failed. ret is -8005\n",
            255,
            "devmm_svm",
        ),
        (
            "dcmi model initialized failed, because the device is used. ret is -8020\n",
            0,
            "give the container free devices",
        ),
        (
            "npu-smi: error while loading shared libraries: libc_sec.so: cannot open shared object file\n",
            127,
            "LD_LIBRARY_PATH",
        ),
        ("libdrvdsmi_host.so: cannot open shared object file: No such file or directory\n", 127, "LD_LIBRARY_PATH"),
        ("nothing that anybody knows\n", 1, "reinstall driver and firmware"),
    ],
)
def test_an_npu_smi_that_fails_is_told_with_what_mends_it(tmp_path: Path, output: str, code: int, fix: str) -> None:
    row = _asked(_tool(tmp_path / "smi", output, code))
    assert row.level == "fail"
    assert fix in row.fix


@pytest.mark.parametrize(
    ("stated", "level", "said"),
    [
        ("", "ok", "all 1 devices"),
        ("0", "ok", "is 0"),
        ("0,1", "fail", "1 not among [0]"),
        ("0,0", "fail", "named twice"),
        ("all", "fail", "all not among [0]"),
    ],
)
def test_visible_devices(devices: Path, stated: str, level: str, said: str) -> None:
    row = ascend.check_visible({"ASCEND_RT_VISIBLE_DEVICES": stated}, devices)
    assert row.level == level
    assert said in row.evidence


def test_device_nodes_that_this_user_may_not_open(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ascend.check_permission(devices).level == "ok"
    monkeypatch.setattr(ascend.os, "access", lambda path, mode: path.name != "hisi_hdc")
    row = ascend.check_permission(devices)
    assert row.level == "fail"
    assert "hisi_hdc" in row.evidence
    assert "usermod -aG HwHiAiUser" in row.fix


def test_every_npu_check_gives_its_row_in_order(tmp_path: Path, devices: Path) -> None:
    environment = _tool(tmp_path / "smi", INFO.format(second="OK")) | cann_folder(tmp_path / "cann", "8.5.0")
    rows = ascend.check_ascend(environment, devices, lambda: ascend.ask_npu_smi(environment))
    assert [row.check for row in rows] == list(ascend.CHECKS)
