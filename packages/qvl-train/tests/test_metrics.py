"""Rows of metrics survive a kill and do not repeat after a resume."""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path

import pytest
from qvl_core.errors import DiskError
from qvl_train.metrics import MetricsLog, read_metrics
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


def write_rows(folder: Path, steps: range, *, after: int = 0, tensorboard: bool = False) -> None:
    with MetricsLog(folder, step=after, tensorboard=tensorboard) as log:
        for step in steps:
            log.write({"step": step, "loss": 1.0 / step})


def test_rows_are_json_lines_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path, range(1, 4))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)]


def test_floats_come_back_to_the_bit(tmp_path: Path) -> None:
    value = 2.302585092994046
    with MetricsLog(tmp_path, step=0, tensorboard=False) as log:
        log.write({"step": 1, "loss": value})
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"].hex() == value.hex()


def test_resuming_drops_the_rows_of_the_steps_that_are_repeated(tmp_path: Path) -> None:
    write_rows(tmp_path, range(1, 8))
    write_rows(tmp_path, range(6, 9), after=5)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    write_rows(tmp_path, range(3, 5), after=2)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def test_tensorboard_files_are_written_when_asked(tmp_path: Path) -> None:
    write_rows(tmp_path, range(1, 3), tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_no_tensorboard_folder_otherwise(tmp_path: Path) -> None:
    write_rows(tmp_path, range(1, 3))
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_has_every_number_of_a_row_under_its_key_and_hides_what_a_continuation_repeats(
    tmp_path: Path,
) -> None:
    with MetricsLog(tmp_path, step=4, tensorboard=True) as log:
        log.write({"step": 5, "backward_s": 0.5, "mfu": 0.25, "slowest_rank": 3, "note": "not a number"})
        log.write({"step": 6, "backward_s": 0.75})
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    events = [event_pb2.Event.FromString(data) for data in _records(file.read_bytes())]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (5, event_pb2.SessionLog.START)
    found = {(value.tag, event.step): value.simple_value for event in events[2:] for value in event.summary.value}
    assert len(events) == 4, "an event a row"
    expected = {("backward_s", 5): 0.5, ("mfu", 5): 0.25, ("slowest_rank", 5): 3.0, ("backward_s", 6): 0.75}
    assert found == expected


def _records(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(data[12 : 12 + length])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_row_that_does_not_fit_is_a_disk_error_and_leaves_no_part_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorboard: bool
) -> None:
    with MetricsLog(tmp_path, step=0, tensorboard=tensorboard) as log:
        log.write({"step": 1, "loss": 1.0})
        sizes = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Half a row more than what is there: the first write is a short one.
        resource.setrlimit(resource.RLIMIT_FSIZE, (min(sizes.values()) + 10, before[1]))
        try:
            with pytest.raises(DiskError, match="cannot be written: File too large"):
                log.write({"step": 2, "loss": 2.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert {path: path.stat().st_size for path in sizes} == sizes
        log.write({"step": 3, "loss": 3.0})
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 3]
