"""What launchers write beside the logs: when a start reached what, and that a machine has stopped."""

from __future__ import annotations

import json
from pathlib import Path

from qvl_core.launch.records import LaunchRecord, OtherMachines


def test_a_stamp_counts_when_the_last_rank_has_it(tmp_path: Path) -> None:
    record = LaunchRecord(tmp_path, node=0, processes=2, command=["mpiexec"], started=100.0)
    record.write([{"connected": 101.0, "first step": 105.0}, {"connected": 102.5}])
    found = json.loads((tmp_path / "launch.json").read_text())
    assert found["seconds"] == {"connected": 2.5}
    record.write([{"connected": 101.0, "first step": 105.0}, {"connected": 102.5, "first step": 104.0}], "done")
    found = json.loads((tmp_path / "launch.json").read_text())
    assert found["seconds"] == {"connected": 2.5, "first step": 5.0}
    assert found["ended"] == "done"


def test_every_machine_has_its_own_record(tmp_path: Path) -> None:
    LaunchRecord(tmp_path, node=3, processes=8, command=["msrun"], started=0.0).write([{}])
    assert [path.name for path in tmp_path.iterdir()] == ["launch_node_003.json"]


def test_a_machine_hears_that_another_has_stopped_and_why(tmp_path: Path) -> None:
    first, second = (OtherMachines(tmp_path, node=node, nodes=2) for node in (0, 1))
    assert first.stopped() is None
    second.tell("weights/a.safetensors\n  has 0 bytes", 2)
    error = first.stopped()
    assert error is not None
    assert error.exit_code == 2
    assert str(error).startswith("weights/a.safetensors\n  has 0 bytes\nthat was on machine 1")
    assert second.stopped() is None


def test_what_an_earlier_run_left_behind_stops_nobody(tmp_path: Path) -> None:
    OtherMachines(tmp_path, node=1, nodes=2).tell("old", 1)
    first = OtherMachines(tmp_path, node=0, nodes=2)
    assert first.stopped() is None
    second = OtherMachines(tmp_path, node=1, nodes=2)
    assert first.stopped() is None
    second.tell("old", 1)
    assert "old" in str(first.stopped())


def test_a_file_that_is_still_on_its_way_is_read_later(tmp_path: Path) -> None:
    first = OtherMachines(tmp_path, node=0, nodes=2)
    (tmp_path / "stopped_node_001.json").write_text('{"node": 1, "te')
    assert first.stopped() is None


def test_one_machine_writes_nothing(tmp_path: Path) -> None:
    OtherMachines(tmp_path, node=0, nodes=1).tell("x", 1)
    assert list(tmp_path.iterdir()) == []
