"""Sums: which rows make the headline, which groups there are and in which order, what failed rows do."""

from __future__ import annotations

from typing import Any

import pytest
from qvl_eval.score.differences import count_score_differences, differing_rows
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.mmmu_domains import DOMAINS, domain_of
from qvl_eval.score.summary import Scores, summarise

OPTIONS = {"A": "red", "B": "blue"}
NEW, MIXED = "vlmevalkit-2026-06", "vlmevalkit-2026-06+mmmu-official"


def row(prediction: str, answer: str = "A", index: str = "1", **columns: Any) -> AnsweredRow:
    columns.setdefault("options", OPTIONS)
    return AnsweredRow(index=index, prediction=prediction, answer=answer, **columns)


def summed(benchmark: str, rows: list[AnsweredRow], rules: str = NEW) -> Scores:
    return summarise(benchmark, rules, [judge(benchmark, one, rules) for one in rows])


def test_failed_rows_count_as_wrong_and_are_left_out_of_the_second_number() -> None:
    scores = summed("ai2d_test", [row("A"), row("B"), row("?"), row("")])
    assert scores.headline is scores.overall
    assert (scores.overall.name, scores.overall.rows, scores.overall.failed) == ("all rows", 4, 2)
    assert (scores.overall.percent, scores.overall.percent_without_failed) == (25.0, 50.0)
    assert scores.overall.failed_percent == 50.0
    assert scores.empty_answers == 1


def test_without_any_readable_row_there_is_no_second_number() -> None:
    assert summed("ai2d_test", [row("?")]).headline.percent_without_failed is None


def test_splits_subjects_and_domains_stand_in_file_order() -> None:
    rows = [
        row("A", split="validation", subcategory="Math", category="Science"),
        row("B", split="dev", subcategory="Art", category="Art & Design"),
        row("B", split="validation", subcategory="Biology", category="Science"),
        row("A", split="validation", subcategory="Math", category="Science"),
    ]
    scores = summed("mmmu_dev_val", rows)
    names = [(group.kind, group.split, group.name, group.rows) for group in scores.groups]
    assert names == [
        ("split", "", "validation", 3),
        ("split", "", "dev", 1),
        ("subcategory", "validation", "Math", 2),
        ("subcategory", "validation", "Biology", 1),
        ("category", "validation", "Science", 3),
    ]
    assert [group.name for group in scores.split_groups if group.split == "dev"] == ["Art", "Art & Design"]
    assert scores.headline == scores.groups[0]
    assert scores.headline.percent == pytest.approx(200 / 3)
    assert scores.overall.rows == 4


def test_mmmu_without_its_validation_rows_is_summed_over_all() -> None:
    scores = summed("MMMU_DEV_VAL", [row("A", split="dev"), row("B")])
    assert (scores.headline.name, scores.headline.rows) == ("all rows", 2)
    assert [group.name for group in scores.groups] == ["dev"]


def test_the_headline_of_charts_counts_rows_not_splits() -> None:
    rows = [row("1", "1", split="test_human")] + [row("2", "1", split="test_augmented")] * 3
    scores = summed("chartqa_test", rows)
    assert (scores.headline.name, scores.headline.percent) == ("all rows", 25.0)
    assert [(group.name, group.percent) for group in scores.groups] == [("test_human", 100.0), ("test_augmented", 0.0)]
    assert scores.official_percent is None


def test_mmmu_rounds_each_subject_before_it_sums_up() -> None:
    rows = [row("A" if i == 0 else "B", subcategory="Math") for i in range(3)] + [row("A", subcategory="Art")]
    scores = summed("mmmu_dev_val", rows, "mmmu-official")
    assert scores.overall.percent == 50.0
    assert scores.official_percent == pytest.approx(100 * (0.333 * 3 + 1) / 4)


def test_a_subject_without_a_domain_column_counts_in_its_domain() -> None:
    scores = summed("mmmu_dev_val", [row("A", subcategory="Math"), row("A", subcategory="Alchemy")])
    assert [(group.kind, group.name, group.rows) for group in scores.groups if group.kind == "category"] == [
        ("category", "Science", 1)
    ]
    assert sum(map(len, DOMAINS.values())) == 30
    assert domain_of("Pharmacy") == "Health & Medicine"


def test_a_drawn_option_does_not_help_the_number_without_failed_rows() -> None:
    rows = [row("?", "A", str(i)) for i in range(20)] + [row("A", index="x")]
    scores = summed("mmmu_dev_val", rows, "mmmu-official-random")
    assert scores.overall.failed == 20
    assert scores.overall.percent > 100 / 21 + 1
    assert scores.overall.percent_without_failed == 100.0


def test_sums_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="ai2d_test: there are no rows to sum up"):
        summarise("ai2d_test", NEW, [])


def judged_under(benchmark: str, rows: list[AnsweredRow], *rules: str) -> list[list[Judged]]:
    return [[judge(benchmark, one, name) for one in rows] for name in rules]


def test_rows_differ_by_score_or_by_the_letter_read() -> None:
    rows = [
        row("A", index="same"),
        row("B is one of many things that there are", index="letter"),
        row("A is one of many things that there are", index="score"),
        row("The answer is about 7", "10", "open", options={}),
        row("no", "10", "open, both wrong", options={}),
        row("Z", index="both refused"),
    ]
    found = differing_rows(judged_under("mmmu_dev_val", rows, "mindspeed", NEW, MIXED))
    assert [verdicts[0].row.index for verdicts in found] == ["letter", "score", "open"]
    assert count_score_differences(found) == 2
    assert [one.extracted for one in found[0]] == ["B", None, None]
