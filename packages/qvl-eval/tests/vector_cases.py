"""The sample vectors: replies with the values that the unchanged tools gave. benchmarks/scoring.py reads them too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qvl_eval.score import extract_choice, score_row
from qvl_eval.score.choice import lettered
from qvl_eval.score.judge import as_vlmevalkit
from qvl_eval.score.rule_sets import RULE_SETS

PATH = Path(__file__).parent / "data" / "eval_vectors.jsonl"
# Which rule sets a metric's values hold for.
OF_METRIC = {
    "mcq.extract": ("vlmevalkit-2026-06",),
    "mcq.extract_mindspeed": ("mindspeed", "vlmevalkit-legacy"),
    "chartqa.relaxed": ("vlmevalkit-2026-06", "vlmevalkit-2025-09"),
    "chartqa.relaxed_swapped": ("mindspeed", "vlmevalkit-legacy"),
    "docvqa.anls": ("vlmevalkit-2026-06", "vlmevalkit-2025-09", "vlmevalkit-legacy", "mindspeed"),
    "mmmu.official_mcq": ("mmmu-official",),
    "mmmu.official_open": ("mmmu-official",),
    "mmmu.vlmeval_row": ("vlmevalkit-2026-06",),
    "mmmu.mindspeed_row": ("mindspeed",),
}


def read_vectors() -> list[dict[str, Any]]:
    """Give all vectors, those of prompts and files among them."""
    return [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def scored_vectors() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give (rule set, vector) for all that scoring has to reproduce."""
    for vector in read_vectors():
        for rules in OF_METRIC.get(vector["metric"], ()):
            yield rules, vector


def found_and_wanted(rules: str, vector: Mapping[str, Any]) -> tuple[object, object]:
    """Give what our functions make of a vector, and its value in the same form."""
    metric, reply, answer = vector["metric"], vector["prediction"], vector["answer"]
    choices, wanted = vector.get("choices"), vector["expected"]
    if metric.startswith("mcq."):
        found = (extract_choice(reply, choices, rules), score_row("ai2d_test", reply, answer, choices, rules))
        return (found[0] or "Z", found[1]), (wanted, vector["hit"])
    if metric == "mmmu.official_mcq":
        found = (extract_choice(reply, choices, rules), score_row("mmmu_dev_val", reply, answer, choices, rules))
        return found, (None if wanted == "<random>" else wanted, vector["hit"] or 0)
    if metric.endswith("_row"):
        options, gold = as_vlmevalkit(lettered(choices), answer, RULE_SETS[rules])
        letter = extract_choice(reply, options, rules) or "Z"
        score = score_row("mmmu_dev_val", reply, answer, choices, rules)
        return {"option": letter, "gt": gold, "hit": score}, wanted
    benchmark = {"chartqa": "chartqa_test", "docvqa": "docvqa_val", "mmmu": "mmmu_dev_val"}[metric.split(".")[0]]
    score = score_row(benchmark, reply, answer, None, rules)
    # Upstream fails for a reference that is a number; ours takes it as a text.
    return round(score, 6), 1.0 if str(wanted).startswith("error:") else wanted
