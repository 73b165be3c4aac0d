"""The page of a run holds its numbers, says what is missing, and runs nothing that a folder smuggles in."""

from __future__ import annotations

import json
import math
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qvl_train.report.profile_card import read_operations
from qvl_train.report.run_history import open_runs
from qvl_train.report.run_page import page_body, run_page
from qvl_train.report.time_split import time_split
from run_folders import HOSTILE, record, rows, validations, write_run


def body_of(*folders: Path) -> str:
    return page_body(open_runs(list(folders)))


def readings(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_shows_every_number_of_the_issue(tmp_path: Path) -> None:
    lines = [
        *rows(range(1, 101)),
        *validations([50, 100]),
        {"step": 100, "eval_accuracy_percent": 91.5, "eval_s": 3.0},
        {"step": 100, "save_copy_s": 0.1, "save_wait_s": 0.2, "save_s": 1.0},
    ]
    write_run(tmp_path, lines, content=record(result={"steps": 100}), memory=[0.9, 1.25])
    page = body_of(tmp_path)
    assert titles(page) == [
        "Loss",
        "Time of a step",
        "Evaluation during training",
        "Throughput",
        "Memory",
        "Learning rate",
        "Gradient norm",
        "Samples seen",
        f"How {tmp_path.name} was run",
    ]
    for tile in ("1,600</b><span>samples seen", "1.25 GiB</b>", "500 ms</b>", "1,480</b>", "91.5 %</b>"):
        assert tile in page
    assert "finished, 100 steps" in page
    charts = readings(page)
    assert charts["samples"]["lines"][0]["values"][-1] == "1,600"
    assert {line["name"] for line in charts["loss"]["lines"]} == {"training, smoothed", "validation"}
    for name in ("data", "forward", "backward", "communication", "waiting for others", "optimizer", "validation"):
        assert f"{name}</span>" in page or f">{name}</td>" in page


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, content=record())
    page = body_of(tmp_path)
    assert "No step is in metrics.jsonl yet." in page
    assert titles(page) == ["To know", f"How {tmp_path.name} was run"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_steps_have_a_page(tmp_path: Path, count: int) -> None:
    write_run(tmp_path, rows(range(1, count + 1)), content=record())
    page = body_of(tmp_path)
    assert f"step {count} of 300" in page
    assert "left at this pace" in page
    assert len(readings(page)["loss"]["lines"][0]["steps"]) == count


def test_a_loss_that_became_nan_is_told_as_nan(tmp_path: Path) -> None:
    lines = [{**row, "loss": math.nan if row["step"] > 30 else 0.25} for row in rows(range(1, 41))]
    write_run(tmp_path / "late", lines, content=record(result={"steps": 40}))
    page = body_of(tmp_path / "late")
    assert 'class="badge warn">finished, 40 steps<' in page
    assert 'class="badge bad">loss is NaN since step 31<' in page
    assert "NaN</b><span>loss, last step" in page
    assert "last finite one 0.25, at step 30" in page
    write_run(tmp_path / "all", [{**row, "loss": math.nan} for row in lines], content=record(result={"steps": 40}))
    page = body_of(tmp_path / "all")
    assert 'class="badge bad">loss is NaN since step 1<' in page
    assert "NaN</b><span>loss, last step" in page
    assert "No step" not in page


def test_a_loss_that_is_a_number_again_has_no_red_badge(tmp_path: Path) -> None:
    lines = [{**row, "loss": math.inf if row["step"] == 30 else 0.25} for row in rows(range(1, 41))]
    write_run(tmp_path, lines, content=record(result={"steps": 40}))
    page = body_of(tmp_path)
    assert 'class="badge good">finished, 40 steps<' in page
    assert "badge bad" not in page
    assert "1 value is NaN or infinite, first at step 30" in page


def test_a_run_that_goes_on_with_an_infinite_loss_says_so_alone_and_beside_another(tmp_path: Path) -> None:
    lines = [{**row, "loss": math.inf if row["step"] > 30 else 0.25} for row in rows(range(1, 41))]
    write_run(tmp_path / "a", rows(range(1, 41)), content=record())
    write_run(tmp_path / "b", lines, content=record())
    assert 'class="badge bad">loss is infinite since step 31<' in body_of(tmp_path / "b")
    beside = page_body(open_runs([tmp_path / "a", tmp_path / "b"]))
    assert beside.count('class="tag bad">loss is infinite since step 31<') == 1


def test_when_a_run_that_has_not_finished_was_last_heard_of_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, rows(range(1, 8)), content=record())
    os.utime(tmp_path / "metrics.jsonl", (0, 86_400))
    assert "last written 1970-01-02T00:00:00Z" in body_of(tmp_path)
    write_run(tmp_path, content=record(result={"steps": 7}))
    assert "last written" not in body_of(tmp_path)
    write_run(tmp_path / "begun", content=record())
    assert "last written" not in body_of(tmp_path / "begun")
    # As a run leaves it that begins, and as one does that was ended in its first step.
    write_run(tmp_path / "begun", [], content=record())
    assert (tmp_path / "begun" / "metrics.jsonl").read_bytes() == b""
    assert "last written" not in body_of(tmp_path / "begun")
    write_run(tmp_path / "begun", [{"step": 1, "not_finite": "the loss of step 1 is nan"}], content=record())
    assert "last written" in body_of(tmp_path / "begun")


def test_what_ended_a_run_is_told(tmp_path: Path) -> None:
    why = "the loss of step 8 is nan; the step was not applied.\nit began on rank 1, with these samples:\n  a.json:7"
    write_run(tmp_path, [*rows(range(1, 8)), {"step": 8, "not_finite": why}], content=record())
    page = body_of(tmp_path)
    assert 'class="badge warn">step 7 of 300<' in page
    assert 'class="badge bad">the loss of step 8 is nan<' in page
    assert "The run was ended: the loss of step 8 is nan; the step was not applied. it began on rank 1" in page
    assert "a.json:7" in page
    # One that went on after all, and whose row somebody has kept.
    write_run(tmp_path, [*rows(range(1, 8)), {"step": 8, "not_finite": why}, *rows([8, 9])])
    assert "badge bad" not in body_of(tmp_path)
    write_run(tmp_path, [{"step": 1, "not_finite": HOSTILE * 50}])
    assert "<img src=x" not in body_of(tmp_path)


def test_numbers_without_a_record_have_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, rows(range(1, 50)))
    page = body_of(tmp_path)
    assert "There is no run.json" in page
    assert titles(page)[:2] == ["To know", "Loss"]


def test_a_hole_breaks_the_lines(tmp_path: Path) -> None:
    write_run(tmp_path / "whole", rows(range(1, 21)), content=record())
    write_run(tmp_path / "holed", rows([*range(1, 9), *range(15, 21)]), content=record())
    whole, holed = body_of(tmp_path / "whole"), body_of(tmp_path / "holed")
    assert holed.count('class="stroke line c0"') == 2 * whole.count('class="stroke line c0"')
    assert "Without numbers: steps 9 to 14" in holed


def test_a_slow_first_step_is_told_and_does_not_press_the_others_flat(tmp_path: Path) -> None:
    lines = rows(range(1, 101))
    lines[0]["tokens_per_s"] = 1e6
    write_run(tmp_path, lines, content=record())
    assert "1 value lies above the drawing, the highest at 1,000,000." in body_of(tmp_path)


def test_stages_have_a_chart_of_their_bubble(tmp_path: Path) -> None:
    write_run(tmp_path, [{**row, "bubble": 0.4} for row in rows(range(1, 10))], content=record())
    assert "Pipeline bubble" in titles(body_of(tmp_path))


def test_what_an_older_version_did_not_split_is_a_part_of_its_own(tmp_path: Path) -> None:
    old = [
        {key: value for key, value in row.items() if key not in ("forward_s", "backward_s", "other_s")}
        for row in rows(range(1, 40))
    ]
    write_run(tmp_path, old, content=record())
    assert "not split</span>" in body_of(tmp_path)


def test_a_continuation_is_marked(tmp_path: Path) -> None:
    history = [{"after_step": 20, "at": "2026-11-27", "differences": ["train.seed: here 1, there 2"], "versions": {}}]
    write_run(tmp_path, rows(range(1, 41)), content=record(history=history))
    page = body_of(tmp_path)
    assert "step 20: continued with train.seed: here 1, there 2" in page
    assert "after step 20, 2026-11-27" in page


def test_nothing_of_a_folder_becomes_markup(tmp_path: Path) -> None:
    folder = tmp_path / "<b>&run"
    content = record(
        {"output.dir": HOSTILE, HOSTILE: HOSTILE},
        command=["qvl", HOSTILE],
        run_id=HOSTILE,
        started=HOSTILE,
        history=[{"after_step": 1, "differences": [HOSTILE], "versions": {HOSTILE: [HOSTILE, HOSTILE]}}],
    )
    content["versions"] = {HOSTILE: HOSTILE}
    content["hashes"] = {HOSTILE: HOSTILE}
    lines: list[Any] = [*rows([1, 2, 3]), {"step": 3, "save_failed": HOSTILE, HOSTILE: 1.0}, "<script>\n"]
    write_run(folder, lines, content=content)
    write_run(tmp_path / "other", rows([1]), content=record())
    for page in (run_page(open_runs([folder])), run_page(open_runs([folder, tmp_path / "other"]), live=True)):
        assert "<img" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert "<b>&run" not in page
        assert page.count("</script>") == 2


def test_a_page_asks_nobody_and_a_live_one_only_its_server(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1, 2]), content=record())
    runs = open_runs([tmp_path])
    assert "connect-src" not in run_page(runs)
    assert "connect-src &#x27;self&#x27;" in run_page(runs, live=True)
    for page in (run_page(runs), run_page(runs, live=True)):
        assert "default-src &#x27;none&#x27;" in page
        assert "unsafe-inline" not in page
        assert " style=" not in page
        assert "http://" not in page


def test_several_runs_are_beside_each_other_with_their_differences(tmp_path: Path) -> None:
    write_run(tmp_path / "a", rows(range(1, 41)), content=record())
    write_run(tmp_path / "b", rows(range(1, 31), scale=1.1), content=record({"train.seed": 7}))
    write_run(tmp_path / "c", content=record({"train.seed": 8}))
    page = body_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert titles(page)[:4] == ["Runs", "To know", "What differs: a and b", "What differs: a and c"]
    assert "The runs compute different things, by 1 difference: train.seed." in page
    assert "c: No step is in metrics.jsonl yet." in page
    names = [line["name"] for line in readings(page)["loss"]["lines"]]
    assert names == ["a training, smoothed", "b training, smoothed"]


def test_a_long_run_has_a_page_of_bounded_size(tmp_path: Path) -> None:
    write_run(tmp_path, rows(range(1, 20_001), total=20_000), content=record({"train.steps": 20_000}))
    assert len(run_page(open_runs([tmp_path]))) < 600_000


def test_a_profile_is_summed_by_operation(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1, 2]), content=record())
    trace = tmp_path / "profile" / "rank_000" / "host_1_ascend_ms" / "ASCEND_PROFILER_OUTPUT" / "trace_view.json"
    trace.parent.mkdir(parents=True)
    # Times are texts there.
    events = [
        {"ph": "X", "name": name, "dur": time} for name, time in (("MatMul", "3000000"), ("Add", 1e6), ("MatMul", 1e6))
    ]
    trace.write_text(json.dumps([{"ph": "M", "name": "process_name"}, *events]))
    page = body_of(tmp_path)
    assert "<h2>Profile</h2>" in page
    assert re.search(r"MatMul</td><td[^>]*>2</td><td[^>]*>4 s</td><td[^>]*>80.0 %</td>", page)


@pytest.mark.parametrize("more", [{}, {"bubble": 0.2}])
def test_no_place_beside_a_chart_stays_empty(tmp_path: Path, more: dict[str, float]) -> None:
    write_run(tmp_path, [{**row, **more} for row in rows(range(1, 101))], content=record())
    page = body_of(tmp_path)
    beside = page[page.index('<div class="pairs">') :]
    halves = [title for title in titles(page) if f"<h2>{title}</h2>" in beside and not title.startswith("How")]
    assert len(halves) % 2 == 0
    assert ("Throughput" in halves) == bool(more)


def test_operations_are_told_by_what_did_them_and_spans_count_for_nothing(tmp_path: Path) -> None:
    names = {2: "CPU OP", 3: "Scope Layer", 4: "Ascend Hardware"}
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}} for pid, name in names.items()
    ]
    for pid, name in ((2, "MatMul"), (3, "Default"), (4, "MatMul"), (4, "Add")):
        events.append({"ph": "X", "name": name, "dur": "1000000", "pid": pid})
    (tmp_path / "trace_view.json").write_text(json.dumps(events))
    found = [(one.track, one.name, one.calls) for one in read_operations(tmp_path / "trace_view.json")]
    assert found == [("CPU OP", "MatMul", 1), ("Ascend Hardware", "MatMul", 1), ("Ascend Hardware", "Add", 1)]


NO_OPERATION = "No operation is in this trace."
NO_TRACE = "is not whole, or is no trace"
OPERATION = '{"ph": "X", "name": "a", "dur": %s}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, NO_TRACE) for text in ("", "{", "{}", "7", '[{"ph": "X"}]', f"[{OPERATION % 7}, {{")),
        *((f"[{OPERATION % time}]", NO_TRACE) for time in ('"long"', "NaN", '"inf"', "1e999", "9" * 400, "1e300")),
        *((text, NO_OPERATION) for text in ("[]", '{"traceEvents": []}', '[{"ph": "M"}]')),
    ],
)
def test_a_profile_that_shows_nothing_is_told(tmp_path: Path, text: str, said: str) -> None:
    write_run(tmp_path, rows([1]), content=record())
    (tmp_path / "profile" / "rank_000").mkdir(parents=True)
    (tmp_path / "profile" / "rank_000" / "trace_view.json").write_text(text)
    page = body_of(tmp_path)
    assert [sentence for sentence in (NO_OPERATION, NO_TRACE) if sentence in page] == [said]


def areas(page: str) -> list[list[float]]:
    """Give the places along the steps, ascending, at which the drawing of a step's parts has edges, of each part."""
    drawing = page[page.index("the parts of a step&#x27;s time over the steps") - 20_000 :]
    shapes = re.findall(r'<path d="M([^"]*)Z" class="p\d">', drawing)
    return [sorted({float(point.split()[0]) for point in shape.split("L")}) for shape in shapes]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_drawing_of_a_step_s_time_has_every_step_and_all_as_wide(tmp_path: Path, count: int) -> None:
    write_run(tmp_path, rows(range(1, count + 1)), content=record())
    for edges in areas(body_of(tmp_path)):
        assert len(edges) == count + 1
        widths = np.diff(edges)
        assert widths.max() - widths.min() < 0.5


@pytest.mark.parametrize("every", [1, 10])
def test_totals_are_of_all_steps_though_not_each_has_a_row(tmp_path: Path, every: int) -> None:
    lines = [*rows(range(every, 101, every)), {"step": 100, "validation_s": 50.0, "validation_loss": 1.0}]
    write_run(tmp_path, lines, content=record())
    (run,) = open_runs([tmp_path])
    split = time_split(run)
    assert split is not None
    assert split.total_s == pytest.approx(100 * 0.5)
    assert split.step_s == pytest.approx(0.5)
    assert ("validation", 50.0) in split.between
    # Half of the time was validation, whether or not each step has a row.
    assert re.search(r"validation</td><td class=\"n\">50 s</td><td class=\"n\">50.0 %<", body_of(tmp_path))


def test_a_step_of_step_0_costs_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 0, "step_time_s": 1.0, "loss": 1.0}], content=record())
    assert "<h2>Time of a step</h2>" in body_of(tmp_path)


def test_many_runs_have_colours_of_their_own_and_their_differences_folded(tmp_path: Path) -> None:
    for name in "abcdefghijkl":
        write_run(tmp_path / name, rows(range(1, 4)), content=record({"train.seed": ord(name)}))
    page = page_body(open_runs([tmp_path / name for name in "abcdefghijkl"]))
    table = page[page.index('id="runs"') : page.index("What differs")]
    assert len(set(re.findall(r'class="key line (c\d+)"', table))) == 12
    css = files("qvl_train.report").joinpath("report.css").read_text()
    assert all(f".c{place} " in css and css.count(f"--c{place}:") == 2 for place in range(12))
    assert page.count("<details><summary>1 difference</summary>") == 11
    two = page_body(open_runs([tmp_path / "a", tmp_path / "b"]))
    assert "1 difference</summary>" not in two
