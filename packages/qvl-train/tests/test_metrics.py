"""Rows of metrics survive a kill and do not repeat after a resume."""

from __future__ import annotations

import json
from pathlib import Path

from qvl_train.metrics import MetricsLog, read_metrics


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


def test_tensorboard_has_every_number_of_a_row_under_its_key(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, step=0, tensorboard=True) as log:
        log.write({"step": 1, "backward_s": 0.5, "mfu": 0.25, "slowest_rank": 3})
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    content, found, start = path.read_bytes(), {}, 0
    while start < len(content):
        # A record: its length, a checksum, the event, a checksum.
        size = int.from_bytes(content[start : start + 8], "little")
        event = Event.FromString(content[start + 12 : start + 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        start += size + 16
    assert found == {("backward_s", 1): 0.5, ("mfu", 1): 0.25, ("slowest_rank", 1): 3.0}
