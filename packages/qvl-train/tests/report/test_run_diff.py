"""Every input that changes appears in a difference, with a meaning that agrees with what resuming says."""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from qvl_core.recipe.draft import all_keys
from qvl_core.run_folder import FREE_TO_CHANGE, RECORDED_PACKAGES
from qvl_train.report.diff_card import diff_card
from qvl_train.report.diff_text import diff_json, print_diff
from qvl_train.report.meanings import VERSION_MEANINGS, Effect, recipe_meaning
from qvl_train.report.numbers import number_text
from qvl_train.report.outcomes import course_text
from qvl_train.report.run_diff import RunDiff, diff_runs, flatten
from qvl_train.report.run_history import open_any_runs
from rich.console import Console
from run_folders import recipe, record, rows, validations, write_run

KEYS = [key for key, _ in flatten(recipe())]
LEAVES = sorted({".".join(str(part) for part in path if not isinstance(part, int)) for path, _ in all_keys()})
LEAVES = [key for key in LEAVES if not any(other.startswith(f"{key}.") for other in LEAVES)]


def compare(tmp_path: Path, one: Any, other: Any, *, ours: Any = None, theirs: Any = None) -> RunDiff:
    write_run(tmp_path / "a", ours, content=one)
    write_run(tmp_path / "b", theirs, content=other)
    a, b = open_any_runs([tmp_path / "a", tmp_path / "b"])
    return diff_runs(a, b)


def changed(value: Any) -> Any:
    """Give another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else [*value, 7]


def with_change(key: str) -> dict[str, Any]:
    content = recipe()
    table: Any = content
    *tables, last = key.replace("]", "").replace("[", ".").split(".")
    for name in tables:
        table = table[int(name) if isinstance(table, list) else name]
    table[last] = changed(table[last])
    return content


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    found = compare(tmp_path, record(), record(run_id="another"))
    assert found.differences == ()
    assert found.verdict == "Nothing differs that a run records."


@pytest.mark.parametrize("key", [key for key in KEYS if key != "schema"])
def test_every_setting_that_changes_appears_and_only_it(tmp_path: Path, key: str) -> None:
    found = compare(tmp_path, record(), {**record(run_id="another"), "recipe": with_change(key)})
    (difference,) = found.differences
    assert difference.key == key
    assert difference.ours != difference.theirs


@pytest.mark.parametrize("name", ["data", "weights"])
def test_a_changed_hash_appears_in_its_group(tmp_path: Path, name: str) -> None:
    other = record(run_id="another")
    other["hashes"] = {**other["hashes"], name: "e" * 64}
    (difference,) = compare(tmp_path, record(), other).differences
    assert (difference.group, difference.key, difference.theirs) == (name, f"{name} hash", "e" * 16)
    assert difference.meaning.effect is Effect.NUMBERS


@pytest.mark.parametrize("name", ["python", "platform", *RECORDED_PACKAGES])
def test_every_changed_version_appears_with_a_meaning(tmp_path: Path, name: str) -> None:
    other = record(run_id="another")
    other["versions"] = {**other["versions"], name: "2.0"}
    (difference,) = compare(tmp_path, record(), other).differences
    assert (difference.key, difference.theirs) == (name, "2.0")
    assert difference.group == ("environment" if name in ("python", "platform") else "versions")
    assert difference.meaning == VERSION_MEANINGS[name]


@pytest.mark.parametrize(("name", "effect"), [("qvl-train", Effect.PERHAPS), ("qvl-eval", Effect.ANSWERS)])
def test_changed_code_of_the_same_version_appears(tmp_path: Path, name: str, effect: Effect) -> None:
    code = {"qvl-train": "a" * 64, "qvl-eval": "b" * 64}
    one, other = record(code=code), record(run_id="another", code={**code, name: "c" * 64})
    found = compare(tmp_path, one, other)
    (difference,) = found.differences
    assert (difference.group, difference.key, difference.theirs) == ("versions", f"code of {name}", "c" * 16)
    assert difference.meaning.effect is effect
    # Another version has other code: that is one difference.
    other["versions"] = {**other["versions"], name: "2.0"}
    assert [one.key for one in compare(tmp_path, one, other).differences] == [name]


def test_code_that_changed_between_is_told_without_digests(tmp_path: Path) -> None:
    entry = {"after_step": 5, "at": "now", "code": {"qvl-train": ["a" * 64, "b" * 64]}}
    code = {"qvl-train": "a" * 64}
    found = compare(tmp_path, record(code=code), record(run_id="another", code=code, history=[entry]))
    assert {one.key: one.theirs for one in found.differences} == {
        "code of qvl-train": "b" * 16,
        "continued": "after step 5: the code of qvl-train has changed",
    }


def test_code_that_was_not_recorded_is_told(tmp_path: Path) -> None:
    found = compare(tmp_path, record(code={"qvl-core": "a"}, machine={"host": "x"}), record(run_id="another"))
    assert "B has not recorded its machine and its code: an earlier version wrote it." in found.notices
    assert found.differences == ()


def test_a_setting_of_the_environment_appears_there(tmp_path: Path) -> None:
    (difference,) = compare(tmp_path, record(), record({"env.HCCL_BUFFSIZE": 200})).differences
    assert (difference.group, difference.key, difference.ours, difference.theirs) == (
        "environment",
        "env.HCCL_BUFFSIZE",
        "–",
        "200",
    )


def test_an_added_source_is_one_difference(tmp_path: Path) -> None:
    other = record(run_id="another")
    source = copy.deepcopy(other["recipe"]["data"]["sources"][0])
    other["recipe"] = copy.deepcopy(other["recipe"])
    other["recipe"]["data"]["sources"].append({**source, "path": "more.json"})
    (difference,) = compare(tmp_path, record(), other).differences
    assert difference.key == "data.sources[1]"
    assert json.loads(difference.theirs)["path"] == "more.json"


def test_a_table_that_one_side_lacks_is_one_difference_and_reads_as_settings(tmp_path: Path) -> None:
    evaluation = {"eval.benchmark": "digits", "eval.every": 10, "eval.preflight.rows": 16}
    found = compare(tmp_path, record(), record(evaluation, run_id="another"))
    (difference,) = found.differences
    assert difference.key == "eval"
    assert json.loads(difference.theirs) == {"benchmark": "digits", "every": 10, "preflight.rows": 16}
    assert difference.meaning.effect is Effect.ANSWERS
    assert "benchmark = digits, every = 10, preflight.rows = 16" in diff_card(found, "a", "b")


def test_whole_and_other_numbers_of_the_same_size_are_told_apart(tmp_path: Path) -> None:
    found = compare(tmp_path, record({"train.optimizer.clip_norm": 1}), record({"train.optimizer.clip_norm": True}))
    assert [(one.ours, one.theirs) for one in found.differences] == [("1", "true")]


@pytest.mark.parametrize("key", [key for key in LEAVES if key.split(".")[0] not in ("expected", "extends")])
def test_every_key_of_the_recipe_has_a_meaning_that_agrees_with_what_a_run_may_be_continued_with(key: str) -> None:
    meaning = recipe_meaning(key)
    assert meaning.effect is not Effect.UNKNOWN
    is_free = any(key == table or key.startswith(f"{table}.") for table in FREE_TO_CHANGE)
    if is_free:
        assert meaning.effect not in (Effect.TENSORS, Effect.NUMBERS)
    else:
        assert meaning.effect in (Effect.TENSORS, Effect.NUMBERS, Effect.PERHAPS, Effect.ANSWERS)


def test_what_a_newer_version_has_is_said_to_be_unknown(tmp_path: Path) -> None:
    found = compare(tmp_path, record(), record({"train.magic": 3}))
    assert found.differences[0].meaning.effect is Effect.UNKNOWN
    assert found.verdict == "The runs may come to different numbers, by 1 difference: train.magic."


def test_a_training_and_an_evaluation_differ_in_whole_tables_that_have_a_meaning(tmp_path: Path) -> None:
    other = record({"task": "eval", "eval.benchmark": "digits"}, run_id="another")
    for table in ("train", "data", "model"):
        del other["recipe"][table]
    found = compare(tmp_path, record(), other)
    told = {one.key: one.meaning.effect for one in found.differences}
    assert {key: told[key] for key in ("train", "data", "model")} == {
        "train": Effect.NUMBERS,
        "data": Effect.NUMBERS,
        "model": Effect.TENSORS,
    }
    assert Effect.UNKNOWN not in told.values()


def test_the_verdict_names_what_changes_the_numbers(tmp_path: Path) -> None:
    found = compare(tmp_path, record(), record({"train.seed": 7, "output.dir": "x"}))
    assert found.verdict == "The runs compute different things, by 1 difference: train.seed."
    assert [one.key for one in found.of("recipe")] == ["train.seed", "output.dir"]
    assert compare(tmp_path, record(), record({"output.dir": "x"})).verdict.startswith("Nothing differs that changes")


def test_scores_of_evaluations_depend_on_how_they_ask(tmp_path: Path) -> None:
    one = record({"task": "eval"}, result={"accuracy_percent": 96.1})
    other = record({"task": "eval", "generation.temperature": 0.5}, result={"accuracy_percent": 90.0})
    found = compare(tmp_path, one, other)
    assert found.verdict == "The runs compute different things, by 1 difference: generation.temperature."
    assert [(row.name, row.ours, row.theirs) for row in found.outcomes] == [("accuracy, %", 96.1, 90.0)]


def test_a_score_larger_than_any_number_is_none(tmp_path: Path) -> None:
    found = compare(tmp_path, record({"task": "eval"}, result={"rows": 10**400}), record({"task": "eval"}))
    assert found.outcomes == ()


@pytest.mark.parametrize("broken", ['{"format": 1, "reci', None])
def test_a_run_without_a_record_differs_in_nothing_that_is_known(tmp_path: Path, broken: str | None) -> None:
    write_run(tmp_path / "a", rows(range(1, 4)), content=broken)
    write_run(tmp_path / "b", rows(range(1, 4)), content=record(machine={"host": "x"}, code={"qvl-core": "1" * 64}))
    one, other = open_any_runs([tmp_path / "a", tmp_path / "b"])
    found = diff_runs(one, other)
    assert found.differences == ()
    assert found.verdict == "What A was made with is not known: only numbers can be compared."
    assert diff_runs(one, one).verdict == "What A and B were made with is not known: only numbers can be compared."
    # An earlier version has not written it.
    assert not [notice for notice in found.notices if "earlier version" in notice]
    assert found.course is not None
    assert course_text(found.course).startswith("Losses are equal to the bit in all 3 steps")
    assert "Without a difference" not in str(diff_card(found, "a", "b"))


def test_says_until_where_losses_are_equal(tmp_path: Path) -> None:
    ours, theirs = rows(range(1, 11)), rows(range(1, 11))
    equal = compare(tmp_path, record(), record(), ours=ours, theirs=theirs)
    assert equal.course is not None
    assert course_text(equal.course) == "Losses are equal to the bit in all 10 steps that both runs have."
    theirs[5]["loss"] *= 1 + 1e-9
    late = compare(tmp_path, record(), record(), ours=ours, theirs=theirs).course
    assert late is not None
    assert (late.same_until, late.step, late.common) == (5, 6, 10)
    assert "equal to the bit until step 5, then" in course_text(late)
    theirs[0]["loss"] = 7.0
    early = compare(tmp_path, record(), record(), ours=ours, theirs=theirs).course
    assert early is not None
    assert course_text(early).startswith("Losses are different from the start:")
    assert compare(tmp_path, record(), record(), ours=rows([1]), theirs=rows([2])).course is None


def test_a_loss_that_is_not_finite_is_a_difference_from_one_that_is(tmp_path: Path) -> None:
    ours, theirs = rows(range(1, 11)), rows(range(1, 11))
    for row in theirs[5:]:
        row["loss"] = math.nan
    late = compare(tmp_path, record(), record(run_id="another"), ours=ours, theirs=theirs)
    assert late.course is not None
    assert (late.course.same_until, late.course.step, late.course.common) == (5, 6, 10)
    assert course_text(late.course) == (
        f"Losses are equal to the bit until step 5, then {ours[5]['loss']!r} against NaN at step 6."
    )
    assert late.notices == ("B: loss: 5 values are NaN or infinite, first at step 6.",)
    told = {one.name: (number_text(one.ours), number_text(one.theirs)) for one in late.outcomes}
    assert told["last loss"][1] == "NaN"
    assert told["last step"] == ("10", "10")
    # JSON has no NaN.
    content = json.loads(diff_json(late, "a", "b"), parse_constant=pytest.fail)
    assert content["course"]["theirs"] is None
    ours[0]["loss"] = math.inf
    early = compare(tmp_path, record(), record(), ours=ours, theirs=theirs).course
    assert early is not None
    assert course_text(early).startswith("Losses are different from the start: infinite against ")


def test_losses_that_are_nan_in_both_runs_are_counted_beside_the_equal_ones(tmp_path: Path) -> None:
    lines = [{**row, "loss": math.nan if row["step"] > 8 else row["loss"]} for row in rows(range(1, 11))]
    found = compare(tmp_path, record(), record(), ours=lines, theirs=lines).course
    assert found is not None
    assert course_text(found) == (
        "Losses are equal to the bit in all 10 steps that both runs have; in 2 of them both are NaN or infinite."
    )
    lines = [{**row, "loss": math.nan} for row in lines]
    found = compare(tmp_path, record(), record(), ours=lines, theirs=lines).course
    assert found is not None
    assert course_text(found) == "Losses of both runs are NaN or infinite in all 10 steps that both have."


def test_what_came_of_it_is_beside_each_other(tmp_path: Path) -> None:
    found = compare(tmp_path, record(), record(), ours=[*rows([1, 2]), *validations([2])], theirs=rows([1]))
    told = {one.name: (one.ours, one.theirs) for one in found.outcomes}
    assert told["last step"] == (2.0, 1.0)
    assert told["last validation loss"][1] is None
    assert told["tokens/s, median"] == (1480.0, 1480.0)


def test_runs_without_a_record_say_that_not_everything_was_compared(tmp_path: Path) -> None:
    found = compare(tmp_path, record(), None, ours=rows([1]), theirs=rows([1]))
    assert found.verdict == "What B was made with is not known: only numbers can be compared."
    partial = compare(tmp_path, record(), {**record(), "format": 2})
    assert partial.verdict.endswith("not everything could be compared.")
    assert found.notices == ("B: There is no run.json: recipe, versions and hashes of this run are not known.",)


def test_continued_runs_say_with_what(tmp_path: Path) -> None:
    history = [{"after_step": 100, "differences": ["train.seed: here 1, there 2"], "versions": {"numpy": ["1", "2"]}}]
    found = compare(tmp_path, record(), record(history=history))
    (continued,) = [one for one in found.differences if one.key == "continued"]
    assert continued.theirs == "after step 100: train.seed: here 1, there 2; numpy 1 -> 2"


@pytest.mark.parametrize(
    ("settings", "others", "effect"),
    [
        ({"layout.pp": [1, 2], "train.log.every": [1, 5]}, {}, Effect.ROUNDING),
        ({"train.log.every": [1, 5]}, {}, Effect.FILES),
        ({"train.log.magic": [None, 5]}, {}, Effect.FILES),
        ({"magic": [None, 5], "layout.pp": [1, 2]}, {}, Effect.UNKNOWN),
        ({"train.log.every": [1, 5]}, {"versions": {"numpy": ["1", "2"]}}, Effect.PERHAPS),
        ({}, {"machine": {"host": ["one", "two"]}}, Effect.PERHAPS),
        (7, {}, Effect.PERHAPS),
    ],
)
def test_a_continuation_means_what_its_settings_mean(
    tmp_path: Path, settings: Any, others: dict[str, Any], effect: Effect
) -> None:
    history = [{"after_step": 20, "differences": [], "settings": settings, **others}]
    found = compare(tmp_path, record(), record(history=history))
    (continued,) = [one for one in found.differences if one.key == "continued"]
    assert continued.meaning.effect is effect


def test_a_continuation_in_another_layout_is_told_with_both(tmp_path: Path) -> None:
    settings = {"layout.text_stages": [[4], [0, 4]], "layout.pp": [1, 2], "train.log.profile": [None, [3, 4]]}
    found = compare(tmp_path, record(), record(history=[{"after_step": 20, "settings": settings}]))
    (continued,) = [one for one in found.differences if one.key == "continued"]
    texts = "layout.text_stages [4] -> [0, 4]; layout.pp 1 -> 2; train.log.profile none -> [3, 4]"
    assert continued.theirs == f"after step 20: {texts}"
    assert found.verdict == "Nothing differs that changes what is computed, beyond rounding."


@pytest.mark.parametrize(
    "history", [[{}], [{"versions": 7, "differences": 3}], [{"after_step": "x", "versions": {"numpy": 7}}]]
)
def test_a_history_of_another_version_is_no_crash(tmp_path: Path, history: Any) -> None:
    assert compare(tmp_path, record(), record(history=history)).verdict


def test_the_same_run_twice_is_told(tmp_path: Path) -> None:
    assert "same run" in compare(tmp_path, record(), record()).notices[0]


def test_text_and_json_have_every_difference(tmp_path: Path) -> None:
    hostile = "evil\x1b[31m[red]"
    found = compare(tmp_path, record(), record({"train.seed": 7, "output.dir": hostile}), ours=rows([1]), theirs=[])
    console = Console(width=200, record=True, markup=False, file=io.StringIO())
    print_diff(console, found, "a", "b")
    text = console.export_text()
    assert "train.seed" in text
    assert "\x1b" not in text
    assert "evil\\x1b[31m[red]" in text
    content = json.loads(diff_json(found, "a", "b"))
    assert [one["key"] for one in content["differences"]] == ["train.seed", "output.dir"]
    assert content["differences"][0]["effect"] == "other numbers"
    assert {"a", "b", "verdict", "course", "outcomes", "notices"} <= content.keys()
