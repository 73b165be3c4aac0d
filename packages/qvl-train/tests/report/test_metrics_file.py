"""Numbers of a run are read as they are: growing, with holes, broken, repeated, or of something else."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest
from qvl_core.errors import OutputError
from qvl_train.report.metrics_file import MetricsFile
from run_folders import rows, write_run


def read(folder: Path, lines: list[object]) -> MetricsFile:
    write_run(folder, lines)  # type: ignore[arg-type]
    metrics = MetricsFile(folder / "metrics.jsonl")
    metrics.update()
    return metrics


def test_gives_numbers_by_step_and_key(tmp_path: Path) -> None:
    metrics = read(tmp_path, [*rows(range(1, 6)), {"step": 5, "validation_loss": 0.5}])
    steps, values = metrics.series("loss")
    assert steps.tolist() == [1, 2, 3, 4, 5]
    assert values.tolist() == [row["loss"] for row in rows(range(1, 6))]
    assert metrics.series("validation_loss")[0].tolist() == [5]
    assert metrics.series("nothing")[0].tolist() == []
    assert list(metrics.notices()) == []


def test_a_file_that_is_not_there_has_no_rows_until_it_is(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    assert not metrics.update()
    write_run(tmp_path, rows([1]))
    assert metrics.update()
    assert metrics.series("loss")[0].tolist() == [1]


def test_reads_only_what_was_appended_and_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    first, second = (json.dumps(row) + "\n" for row in rows([1, 2]))
    metrics = read(tmp_path, [first, second[:50]])
    assert metrics.series("loss")[0].tolist() == [1]
    assert ["in the middle of a row" in text for text in metrics.notices()] == [True]
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(second[50:])
    assert metrics.update()
    assert metrics.series("loss")[0].tolist() == [1, 2]
    assert list(metrics.notices()) == []
    assert not metrics.update()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    metrics = read(tmp_path, [*rows(range(1, 10))])
    # As a run that goes on from step 4 does it: a new file under the same name, then more rows than before.
    write_run(tmp_path / "new", rows(range(1, 5)))
    (tmp_path / "new" / "metrics.jsonl").replace(tmp_path / "metrics.jsonl")
    assert metrics.update()
    assert metrics.series("loss")[0].tolist() == [1, 2, 3, 4]
    write_run(tmp_path, rows([1]))
    assert metrics.update()
    assert metrics.series("loss")[0].tolist() == [1]
    (tmp_path / "metrics.jsonl").unlink()
    assert metrics.update()
    assert metrics.series("loss")[0].tolist() == []


def test_a_file_that_was_written_over_is_read_anew(tmp_path: Path) -> None:
    metrics = read(tmp_path, rows([1, 2, 3]))
    # The same file for the system, and longer than what was read.
    with (tmp_path / "metrics.jsonl").open("r+") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows(range(1, 31), scale=2.0)))
    assert metrics.update()
    assert metrics.series("loss")[1].tolist() == [row["loss"] for row in rows(range(1, 31), scale=2.0)]
    assert list(metrics.notices()) == []


@pytest.mark.parametrize("left", ["", '{"step": 1, "lo'])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_of_a_file_that_was_emptied_all_is_gone(tmp_path: Path, left: str, is_replaced: bool) -> None:
    metrics = read(tmp_path, rows([1, 2, 3]))
    other = tmp_path / ("new" if is_replaced else "metrics.jsonl")
    other.write_text(left)
    other.replace(tmp_path / "metrics.jsonl")
    assert metrics.update()
    assert (metrics.last_step, metrics.keys) == (None, [])
    # Once is enough.
    assert not metrics.update()


def test_of_a_repeated_step_the_later_value_counts(tmp_path: Path) -> None:
    metrics = read(tmp_path, [{"step": s, "loss": v} for s, v in ((1, 6.0), (2, 5.0), (3, 4.0), (2, 5.5), (3, 4.5))])
    steps, values = metrics.series("loss")
    assert steps.tolist() == [1, 2, 3]
    assert values.tolist() == [6.0, 5.5, 4.5]


def test_names_steps_without_a_row(tmp_path: Path) -> None:
    metrics = read(tmp_path, rows([1, 2, 3, 7, 8, 10]))
    assert metrics.lost_steps("loss") == [(4, 6), (9, 9)]
    every_tenth = read(tmp_path / "tenth", rows([10, 20, 30, 60, 70]))
    assert every_tenth.lost_steps("loss") == [(40, 50)]
    assert every_tenth.lost_steps("nothing") == []


def test_no_step_is_missed_where_the_distance_of_rows_changes(tmp_path: Path) -> None:
    metrics = read(tmp_path, rows([*range(10, 61, 10), *range(75, 200, 15)]))
    assert metrics.lost_steps("loss") == []
    metrics = read(tmp_path / "holed", rows([*range(1, 61), *range(80, 200, 10)]))
    assert metrics.lost_steps("loss") == [(61, 70)]
    # A row whose loss is not a number is no missing row: it is told apart.
    metrics = read(
        tmp_path / "nan", [{**row, "loss": math.nan if row["step"] == 5 else 1.0} for row in rows(range(1, 9))]
    )
    assert metrics.lost_steps("loss") == []


def test_holes_are_never_turned_around(tmp_path: Path) -> None:
    chance = random.Random(7)
    for round_ in range(50):
        steps = [1]
        for _ in range(60):
            steps.append(steps[-1] + chance.choice([1, 1, 1, 2, 3, 10, 15]))
        metrics = read(tmp_path / str(round_), rows(steps))
        for first, last in metrics.lost_steps("loss"):
            assert first <= last
            assert not {first, last} & set(steps)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting property name"),
        ("[1]", "not an object with a whole step"),
        ('{"loss": 1.0}', "not an object with a whole step"),
        ('{"step": 1.5, "loss": 1.0}', "not an object with a whole step"),
        ('{"step": true, "loss": 1.0}', "not an object with a whole step"),
        ('{"step": -1, "loss": 1.0}', "not an object with a whole step"),
        ("no", "Expecting value, column 1)"),
        ("\x00\x00\x00", "only zero bytes, as a machine that went down leaves them)"),
        ("\x00\x00\x007", "not UTF-8)"),
        ("[" * 100_000, ""),
        ("7" * 5000, ""),
    ],
)
def test_a_line_that_is_no_row_is_counted_with_its_number(tmp_path: Path, line: str, why: str) -> None:
    metrics = read(tmp_path, [*rows([1]), line + "\n", *rows([2])])
    assert metrics.series("loss")[0].tolist() == [1, 2]
    (notice,) = metrics.notices()
    assert notice.startswith(f"metrics.jsonl: 1 line is left out (line 2: {why}")


def test_bytes_that_are_no_text_are_a_wrong_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\xfe\n{"step": 1, "loss": 2.0}\n\n')
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.update()
    assert metrics.wrong_lines == 1
    assert metrics.series("loss")[1].tolist() == [2.0]
    assert "(line 1: not UTF-8)" in next(metrics.notices())


def test_lines_of_another_system_are_rows(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'\xef\xbb\xbf{"step": 1, "loss": 2.0}\r\n{"step": 2, "loss": 3.0}\r\n')
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.update()
    assert metrics.series("loss")[1].tolist() == [2.0, 3.0]
    assert list(metrics.notices()) == []


def test_many_wrong_lines_are_counted_and_few_named(tmp_path: Path) -> None:
    metrics = read(tmp_path, ["no\n"] * 1000)
    (notice,) = metrics.notices()
    assert notice.startswith("metrics.jsonl: 1,000 lines are left out (line 1: ")
    assert notice.endswith("and 997 more).")


def test_a_line_longer_than_any_row_is_skipped(tmp_path: Path) -> None:
    metrics = read(tmp_path, ['{"step": 1, "x": "' + "y" * (3 << 20) + '"}\n', *rows([2])])
    assert metrics.series("loss")[0].tolist() == [2]
    assert "line 1: longer than any row" in next(metrics.notices())


def test_values_that_are_not_finite_are_told_and_left_out(tmp_path: Path) -> None:
    texts = ['{"step": 1, "loss": 2.0}\n', '{"step": 2, "loss": NaN}\n', '{"step": 3, "loss": 1e999}\n']
    metrics = read(tmp_path, [*texts, '{"step": 4, "loss": 1' + "0" * 400 + "}\n"])
    assert metrics.series("loss")[0].tolist() == [1]
    assert list(metrics.notices()) == ["loss: 3 values are NaN or infinite, first at step 2."]


def test_times_and_rates_below_0_are_told_and_left_out(tmp_path: Path) -> None:
    lines = [{"step": 1, "step_time_s": 0.5}, {"step": 2, "step_time_s": -1.0}, {"step": 3, "step_time_s": -1e-6}]
    metrics = read(tmp_path, [*lines, {"step": 4, "loss": -2.0}])
    assert metrics.series("step_time_s")[0].tolist() == [1, 3]
    assert metrics.series("loss")[1].tolist() == [-2.0]
    assert list(metrics.notices()) == ["step_time_s: 1 value is below 0 and left out, first at step 2."]


def test_texts_and_truth_values_are_no_numbers(tmp_path: Path) -> None:
    metrics = read(tmp_path, [{"step": 1, "loss": "low", "on": True, "list": [1.0], "lr": 1}])
    assert metrics.keys == ["lr"]


def test_failed_saves_are_kept(tmp_path: Path) -> None:
    metrics = read(tmp_path, [{"step": 4, "save_failed": "no space"}])
    assert metrics.failed_saves == [(4, "no space")]


def test_a_pipe_or_folder_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(OutputError, match="named pipe"):
        MetricsFile(tmp_path / "metrics.jsonl").update()
