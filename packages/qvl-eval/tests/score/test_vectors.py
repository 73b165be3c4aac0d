"""Every sample vector is reproduced by the rule sets that its metric belongs to."""

from __future__ import annotations

from typing import Any

import pytest
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow
from qvl_eval.score.official import read_open
from qvl_eval.score.summary import summarise
from vector_cases import OF_METRIC, found_and_wanted, read_vectors, scored_vectors


@pytest.mark.parametrize(
    ("rules", "vector"),
    [pytest.param(*case, id=f"{case[1]['metric']}-{case[0]}-{number}") for number, case in enumerate(scored_vectors())],
)
def test_gives_the_value_of_the_tool_it_is_named_after(rules: str, vector: dict[str, Any]) -> None:
    found, wanted = found_and_wanted(rules, vector)
    assert found == wanted, vector["note"]


def test_every_metric_of_scoring_is_covered() -> None:
    others = {name.split(".")[0] for name in {vector["metric"] for vector in read_vectors()} - set(OF_METRIC)}
    assert others == {"prompt", "aggregate", "tsv", "xlsx"}


@pytest.mark.parametrize(
    "vector", [v for v in read_vectors() if v["metric"] == "mmmu.official_open"], ids=lambda v: str(v["note"])
)
def test_reads_the_texts_and_numbers_that_mmmu_reads(vector: dict[str, Any]) -> None:
    assert sorted(map(repr, read_open(vector["prediction"]))) == sorted(vector["parsed"])


def test_sums_up_splits_subjects_and_domains_as_vlmevalkit_does() -> None:
    (vector,) = [v for v in read_vectors() if v["metric"] == "aggregate.mcq"]
    rows = [
        AnsweredRow(
            index=str(row["index"]),
            answer="A",
            prediction="A" if row["hit"] else "B",
            options={"A": "x", "B": "y"},
            split=row["split"],
            subcategory=row["l2-category"],
            category=row["category"],
        )
        for row in vector["rows"]
    ]
    rules = "vlmevalkit-2026-06"
    scores = summarise("mmmu_dev_val", rules, [judge("mmmu_dev_val", row, rules) for row in rows])
    found = {group.name: {"Overall": group.percent / 100} for group in scores.groups if group.kind == "split"}
    for group in scores.split_groups:
        found[group.split][group.name] = group.percent / 100
    assert found == {name: pytest.approx(values, abs=1e-6) for name, values in vector["expected"].items()}
    assert (scores.headline.name, scores.headline.percent) == ("validation", pytest.approx(60.0))


@pytest.mark.parametrize(
    ("metric", "benchmark"), [("aggregate.chartqa", "chartqa_test"), ("aggregate.docvqa", "docvqa_val")]
)
def test_sums_up_texts_as_vlmevalkit_does(metric: str, benchmark: str) -> None:
    (vector,) = [v for v in read_vectors() if v["metric"] == metric]
    rows = [
        AnsweredRow(index=str(i), answer=row["answer"], prediction=row["prediction"], split=row.get("split", ""))
        for i, row in enumerate(vector["rows"])
    ]
    rules = "vlmevalkit-2026-06"
    scores = summarise(benchmark, rules, [judge(benchmark, row, rules) for row in rows])
    found = {group.name: group.percent for group in scores.groups if group.kind == "split"}
    assert {**found, "Overall": scores.headline.percent} == pytest.approx(vector["expected"], abs=1e-6)
