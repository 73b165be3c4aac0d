"""The pass over all records gives the same whoever does it, and what it counts is what samples become."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import llava, save_image, write_records
from qvl_core.errors import RunError
from qvl_data.index import MediaTable, SampleTable
from qvl_data.preparation import prepare
from qvl_data.processor import processor_of
from qvl_data.source_rules import rules_of
from qvl_data.survey import processes
from qvl_data.survey.chunks import ROWS
from qvl_data.survey.result import Survey
from qvl_data.survey.survey import survey


def surveyed(recipe: Any, **options: Any) -> Survey:
    rules = [rules_of(source) for source in recipe.data.sources]
    return survey(recipe, rules, processor_of(recipe), **{"decode": True, "processes": 1, **options})


def mixed_file(tmp_path: Path, records: int, name: str = "mixed.json") -> Path:
    """Write good and wrong records of many lengths, more than one chunk of them."""
    for number in range(5):
        save_image(tmp_path / f"{number}.png", 40 + 20 * number, 60, seed=number)
    rows: list[Any] = []
    for number in range(records):
        if number % 50 == 7:
            rows.append(llava("<image>", "a", "missing.png"))
        elif number % 50 == 8:
            rows.append(llava("q", ""))
        elif number % 3:
            rows.append(llava("<image>\n" + "word " * (number % 40), "An answer.", f"{number % 5}.png"))
        else:
            rows.append(llava(f"Question {number}?", "answer " * (number % 60 + 1)))
    return write_records(tmp_path / name, rows)


def assert_same(one: Survey, other: Survey) -> None:
    for field in fields(SampleTable):
        np.testing.assert_array_equal(getattr(one.samples, field.name), getattr(other.samples, field.name))
    for field in fields(MediaTable):
        np.testing.assert_array_equal(getattr(one.media, field.name), getattr(other.media, field.name))
    assert (one.counts, one.notes, one.data_hash) == (other.counts, other.notes, other.data_hash)
    assert one.problems.kinds == other.problems.kinds
    assert one.problems.kept == other.problems.kept


@pytest.mark.parametrize("policy", ["drop", "shrink"])
def test_several_processes_give_what_one_gives(make_recipe: Callable[..., Any], tmp_path: Path, policy: str) -> None:
    sources = [str(mixed_file(tmp_path, 3 * ROWS + 17)), str(mixed_file(tmp_path, 40, "other.json"))]
    recipe = make_recipe(sources, sequence_length=60, too_long=policy)
    alone = surveyed(recipe)
    assert alone.counts[0].read == 3 * ROWS + 17
    assert alone.counts[0].dropped > 20
    assert (alone.counts[0].shrunk > 10) == (policy == "shrink")
    assert alone.problems.kinds["missing"] > 10
    assert_same(alone, surveyed(recipe, processes=3))


def test_max_samples_counts_records_of_a_source_over_its_files(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in "abc":
        write_records(folder / f"{name}.json", [llava(f"{name}{i}", "a") for i in range(10)])
    found = surveyed(make_recipe([{"path": str(folder), "max_samples": 14}]))
    assert found.counts[0].read == 14
    assert np.bincount(found.samples.file, minlength=3).tolist() == [10, 4, 0]
    assert not found.problems.count


def test_an_empty_file_among_others_is_a_problem(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    good = write_records(tmp_path / "good.json", [llava("q", "a")])
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    found = surveyed(make_recipe([good, empty]))
    (finding,) = found.problems.kept
    assert finding.kind == "file"
    assert (finding.problem.where, finding.problem.message) == (str(empty), "the list is empty: 0 records")


def test_a_broken_line_costs_its_record_and_no_other(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    good = '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}'
    path.write_text(f'{good}\n{{"conversations": \n{good}\n')
    found = surveyed(make_recipe([path]))
    assert found.samples.line.tolist() == [1, 3]
    assert [finding.problem.where for finding in found.problems.kept] == [f"{path}:2"]


@pytest.mark.parametrize("decode", [True, False])
def test_a_truncated_image_is_found_where_images_are_decoded(
    make_recipe: Callable[..., Any], tmp_path: Path, decode: bool
) -> None:
    save_image(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:400])
    path = write_records(tmp_path / "a.json", [llava("<image>", "a", "cut.png"), llava("q", "a")])
    found = surveyed(make_recipe([path]), decode=decode)
    assert len(found.samples) == 2 - decode
    assert found.decoded == decode


def test_records_that_are_equal_have_equal_digests(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    rows = [llava("<image>q", "a", "a.png"), llava("q", "a"), {**llava("<image>q", "a", "a.png"), "id": 7}]
    digests = surveyed(make_recipe([write_records(tmp_path / "a.json", rows)])).samples.digest
    assert digests[0].tolist() == digests[2].tolist() != digests[1].tolist()


def test_a_process_that_dies_is_named(
    make_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([mixed_file(tmp_path, 2 * ROWS)])
    real = processes._Share.next

    def killed(share: Any) -> Any:
        share._process.send_signal(signal.SIGKILL)
        share._process.wait()
        while True:
            if (chunk := real(share)) is None:
                return chunk

    monkeypatch.setattr(processes._Share, "next", killed)
    with pytest.raises(RunError, match=r"process 1 of 2 that checks records was ended by signal 9"):
        surveyed(recipe, processes=2)


def test_nothing_is_left_running_when_the_caller_stops_half_way(
    make_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    real = processes._Share.__init__

    def remembering(share: Any, *arguments: Any) -> None:
        real(share, *arguments)
        started.append(share._process)

    monkeypatch.setattr(processes._Share, "__init__", remembering)

    def interrupted(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed(make_recipe([mixed_file(tmp_path, 6 * ROWS)]), processes=2, progress=interrupted)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_tokens_are_those_of_the_samples(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    mixed_file(tmp_path, 1)
    path = write_records(tmp_path / "good.json", [llava("<image>" + "w " * i, "a", f"{i % 5}.png") for i in range(40)])
    data = prepare(make_recipe([path], sequence_length=60, too_long="shrink"))
    assert data.report.shrunk >= 2
    assert [len(data.train.sample(i).input_ids) for i in range(len(data.train))] == data.train.lengths.tolist()


def test_problems_are_told_apart_by_kind(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    save_image(tmp_path / "thin.png", 1, 300)
    (tmp_path / "text.png").write_text("text")
    twice = [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    box = {"bbox": [[5, 5, 500, 20]]}
    rows: dict[str, list[Any]] = {
        "record": [7, {"text": "q"}],
        "role": [{"conversations": twice}, {"conversations": [{"from": "nobody", "value": "q"}]}],
        "placeholder": [llava("<image>", "a"), llava("q", "a", "a.png")],
        "empty": [llava("q", " ")],
        "path": [llava("<image>", "a", "../a.png"), llava("<image>", "a", "http://host/a.png")],
        "missing": [llava("<image>", "a", "b.png")],
        "media": [llava("<image>", "a", "text.png"), llava("<image>", "a", "thin.png")],
        "region": [{**llava("<image> where?", "At <box>.", "a.png"), "objects": box}],
        "too_long": [llava("q", "word " * 300)],
    }
    path = write_records(tmp_path / "a.json", [row for group in rows.values() for row in group])
    found = surveyed(make_recipe([path], sequence_length=200, too_long="error"))
    assert dict(found.problems.kinds) == {kind: len(group) for kind, group in rows.items()}


def test_as_many_examples_of_a_kind_are_kept_as_were_asked_for(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", [llava("q", "") for _ in range(100)])
    for shown, processes_ in ((60, 1), (60, 2), (5, 1)):
        found = surveyed(make_recipe([path]), shown=shown, processes=processes_)
        assert len(found.problems.kept) == shown
        assert found.problems.count == 100


def test_a_module_in_the_working_directory_is_not_run(
    make_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([mixed_file(tmp_path, ROWS)])
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("tokenizers.py", "numpy.py", "qvl_data.py", "json.py"):
        (trap / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(trap)
    # An empty part of it would name the working directory on purpose.
    kept = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(kept))
    assert surveyed(recipe, processes=2).counts[0].read == ROWS
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shares", [1, 2])
def test_a_file_that_cannot_be_read_to_its_end_hides_no_other_problem(
    make_recipe: Callable[..., Any], tmp_path: Path, shares: int
) -> None:
    pretty = tmp_path / "pretty.jsonl"
    pretty.write_text('{\n "conversations": []\n}\n')
    other = write_records(tmp_path / "other.json", [llava("q", ""), llava("q", "a")])
    found = surveyed(make_recipe([pretty, other]), processes=shares)
    assert found.problems.kinds == {"file": 1, "empty": 1}
    assert [counts.used for counts in found.counts] == [0, 1]
    assert "the top level is one object" in found.problems.kept[0].problem.message


def test_a_process_that_ends_too_early_without_a_word_has_lost_records(
    make_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([mixed_file(tmp_path, 2 * ROWS)])
    monkeypatch.setattr(processes, "child_command", lambda *words: (sys.executable, "-c", "raise SystemExit(0)"))
    with pytest.raises(RunError, match=r"process 1 of 2 .* ended with exit code 0 and its work not done"):
        surveyed(recipe, processes=2)
