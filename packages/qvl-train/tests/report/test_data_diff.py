"""Data, weights, machines and variables of two runs: which file changed, what only moved, and what that means."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from qvl_core.machine import machine_facts
from qvl_train.report.meanings import MACHINE_MEANINGS, Effect
from qvl_train.report.run_diff import RunDiff, diff_runs
from qvl_train.report.run_history import open_any_runs
from run_folders import record, write_run

MACHINE = {"host": "one", "processor": "x", "cores": "8", "directory": "/home/a", "cann": "8.2.RC1", "driver": "25.2.0"}


def compare(tmp_path: Path, one: Any, other: Any) -> RunDiff:
    write_run(tmp_path / "a", content=one)
    write_run(tmp_path / "b", content={**other, "run_id": "another"})
    a, b = open_any_runs([tmp_path / "a", tmp_path / "b"])
    return diff_runs(a, b)


def with_sources(*paths: str, **others: Any) -> dict[str, Any]:
    content = record(**others)
    content["recipe"] = copy.deepcopy(content["recipe"])
    (source,) = content["recipe"]["data"]["sources"]
    content["recipe"]["data"]["sources"] = [{**source, "path": path} for path in paths]
    return content


def told(found: RunDiff) -> dict[str, tuple[str, str, Effect]]:
    return {one.key: (one.ours, one.theirs, one.meaning.effect) for one in found.differences}


def test_a_changed_file_is_named_and_those_that_are_the_same_are_not(tmp_path: Path) -> None:
    one = record(files={"a.jsonl": "1" * 64, "b.jsonl": "2" * 64})
    other = record(files={"a.jsonl": "1" * 64, "b.jsonl": "3" * 64})
    assert told(compare(tmp_path, one, other)) == {"b.jsonl": ("2" * 16, "3" * 16, Effect.NUMBERS)}


def test_a_file_that_came_and_one_that_moved_are_told_apart(tmp_path: Path) -> None:
    one = record(files={"a.jsonl": "1" * 64})
    other = record(files={"moved.jsonl": "1" * 64, "new.jsonl": "4" * 64})
    found = compare(tmp_path, one, other)
    assert told(found) == {
        "a.jsonl": ("1" * 16, "–", Effect.FILES),
        "moved.jsonl": ("–", "1" * 16, Effect.FILES),
        "new.jsonl": ("–", "4" * 16, Effect.NUMBERS),
    }
    texts = {one.key: one.meaning.text for one in found.differences}
    assert texts["a.jsonl"] == "the same bytes as moved.jsonl of the other run"
    assert texts["new.jsonl"] == "only B reads this file"


def test_very_many_changed_files_are_counted(tmp_path: Path) -> None:
    one, other = ({f"{n:03}.jsonl": digest * 64 for n in range(500)} for digest in "12")
    found = compare(tmp_path, record(files=one), record(files=other))
    assert len(found.differences) == 21
    assert found.differences[-1].key == "480 more files"


def test_media_are_to_blame_where_the_files_of_records_are_the_same(tmp_path: Path) -> None:
    hashes = {"data": "e" * 64, "weights": record()["hashes"]["weights"]}
    files = {"a.jsonl": "1" * 64}
    (difference,) = compare(tmp_path, record(files=files), record(files=files, hashes=hashes)).differences
    assert "media are other ones" in difference.meaning.text


def test_another_path_of_the_same_data_changes_nothing_that_is_computed(tmp_path: Path) -> None:
    found = compare(tmp_path, with_sources("a.json"), with_sources("b.json"))
    assert told(found) == {"data.sources[0].path": ("a.json", "b.json", Effect.FILES)}
    assert found.verdict.startswith("Nothing differs that changes what is computed")
    other = with_sources("b.json", hashes={"data": "e" * 64, "weights": record()["hashes"]["weights"]})
    assert told(compare(tmp_path, with_sources("a.json"), other))["data.sources[0].path"][2] is Effect.NUMBERS


def test_another_path_without_hashes_may_be_other_data(tmp_path: Path) -> None:
    found = compare(tmp_path, with_sources("a.json", hashes={}), with_sources("b.json", hashes={}))
    assert told(found)["data.sources[0].path"][2] is Effect.NUMBERS


def test_a_source_that_was_removed_is_one_difference_wherever_it_stood(tmp_path: Path) -> None:
    found = compare(tmp_path, with_sources("a.json", "b.json", "c.json"), with_sources("b.json", "c.json"))
    (difference,) = found.differences
    assert (difference.key, difference.theirs) == ("data.sources[0]", "–")
    assert '"a.json"' in difference.ours


def test_another_order_of_sources_is_told(tmp_path: Path) -> None:
    found = compare(tmp_path, with_sources("a.json", "b.json"), with_sources("b.json", "a.json"))
    assert told(found) == {"data.sources, their order": ("a.json, b.json", "b.json, a.json", Effect.NUMBERS)}


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ("random:1:sha256:aa", "random:2:sha256:aa", "drawn from another seed"),
        ("random:1:sha256:aa", "random:1:sha256:bb", "another configuration"),
        ("random:1:sha256:aa", "sampled-sha256:aa", "from random weights, the other one from a checkpoint"),
        ("sampled-sha256:aa", "sampled-sha256:bb", "training starts from other weights"),
    ],
)
def test_what_differs_in_weights_is_said(tmp_path: Path, one: str, other: str, text: str) -> None:
    ours, theirs = (record(hashes={"data": "d" * 64, "weights": hash_}) for hash_ in (one, other))
    (difference,) = compare(tmp_path, ours, theirs).differences
    assert difference.group == "weights"
    assert text in difference.meaning.text


@pytest.mark.parametrize("name", sorted(MACHINE_MEANINGS))
def test_every_fact_of_the_machine_has_a_meaning(tmp_path: Path, name: str) -> None:
    found = compare(tmp_path, record(machine=MACHINE), record(machine={**MACHINE, name: "other"}))
    (difference,) = found.differences
    assert (difference.group, difference.key, difference.theirs) == ("environment", name, "other")
    assert difference.meaning == MACHINE_MEANINGS[name]
    assert machine_facts().keys() <= MACHINE_MEANINGS.keys()


def test_variables_have_the_meaning_that_they_have_in_a_recipe_or_their_own(tmp_path: Path) -> None:
    other = {"HCCL_DETERMINISTIC": "true", "OMP_NUM_THREADS": "4", "MS_SOMETHING": "1"}
    found = compare(tmp_path, record(machine=MACHINE), record(machine=MACHINE, variables=other))
    assert told(found) == {
        "$HCCL_DETERMINISTIC": ("–", "true", Effect.ROUNDING),
        "$OMP_NUM_THREADS": ("–", "4", Effect.ROUNDING),
        "$MS_SOMETHING": ("–", "1", Effect.PERHAPS),
    }


def test_a_run_of_an_earlier_version_is_compared_without_machine_and_files(tmp_path: Path) -> None:
    newer = record(machine=MACHINE, variables={"MS_SOMETHING": "1"}, files={"a.jsonl": "1" * 64})
    assert compare(tmp_path, record(), newer).differences == ()


def test_what_a_run_was_continued_with_counts_and_is_told(tmp_path: Path) -> None:
    entry = {
        "after_step": 5,
        "differences": [],
        "versions": {},
        "machine": {"host": ["one", "two"], "cann": ["8", None]},
    }
    found = compare(tmp_path, record(machine=MACHINE), record(machine=MACHINE, history=[entry]))
    assert told(found)["host"][:2] == ("one", "two")
    assert told(found)["cann"][:2] == ("8.2.RC1", "–")
    assert told(found)["continued"][1] == "after step 5: host one -> two; cann 8 -> none"


@pytest.mark.parametrize("sources", [[1, 2], "x", [{"path": 3}, {}], None])
def test_sources_of_another_version_are_no_crash(tmp_path: Path, sources: Any) -> None:
    other = record()
    other["recipe"] = copy.deepcopy(other["recipe"])
    other["recipe"]["data"]["sources"] = sources
    assert compare(tmp_path, record(), other).verdict
    assert compare(tmp_path, other, record()).verdict
