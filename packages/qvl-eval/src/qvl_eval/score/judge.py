"""Judge an answer under a rule set. Pure functions; `extract_choice` and `score_row` are the contract for scripts."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from qvl_eval.score.anls import anls
from qvl_eval.score.choice import Reading, lettered, read_choice
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.official import drawn_option, matching_item, read_official_choice, read_open
from qvl_eval.score.references import references_of
from qvl_eval.score.relaxed import as_number, is_relaxed_match
from qvl_eval.score.rule_sets import CHOICE_BENCHMARKS, EXACT, RuleSet, benchmark_name, find_rules, fitting_rules

OTHER_ANSWERS = "Other Answers"
EMPTY = "empty answer"
_SHOWN_ITEMS = 8


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    score: float
    extracted: str | None
    rule: str
    failed: bool


def extract_choice(
    prediction: object, options: Mapping[str, object] | None, rules: str, *, index: str = ""
) -> str | None:
    """Give the letter that a reply chooses, Z where it refuses or says so itself, None where none can be read.

    `options` maps letters to texts; those that are None, nan or empty do not exist. `index` matters only to rules that
    draw an option. Raises ValueError for rules that do not exist.
    """
    return _read(str(prediction), lettered(options), find_rules(rules), index).letter


def score_row(
    benchmark: str,
    prediction: object,
    answer: object,
    options: Mapping[str, object] | None = None,
    rules: str = EXACT,
) -> float:
    """Give the score of one answer exactly as the tool that the rules are named after, 0 to 1.

    The prediction is taken as it is (`judge` strips what DocVQA is answered with); None and nan are their names. A row
    of MMMU without options is an open question. Raises ValueError for rules that do not exist or do not fit.
    """
    row = AnsweredRow(index="", answer="", prediction=str(prediction), options=lettered(options))
    return _verdict(benchmark_name(benchmark), row, answer, rules).score


def judge(benchmark: str, row: AnsweredRow, rules: str, *, as_upstream: bool = False) -> Judged:
    """Judge a row. Raises ValueError for a benchmark or rules that do not exist or do not fit each other.

    Blanks at the ends of an answer to DocVQA are dropped, as they would raise its score; `as_upstream` keeps them.
    """
    name = benchmark_name(benchmark)
    taken = row
    if name == "docvqa_val" and not as_upstream:
        taken = AnsweredRow(index=row.index, answer=row.answer, prediction=row.prediction.strip())
    verdict = _verdict(name, taken, row.answer, rules)
    return Judged(
        row=row,
        rules=rules,
        score=verdict.score,
        extracted=verdict.extracted,
        rule=verdict.rule,
        failed=verdict.failed,
    )


def is_open(row: AnsweredRow) -> bool:
    """Say whether a row asks for an answer that is in no list of options."""
    return row.question_type.strip().lower() == "open" or not lettered(row.options)


def as_vlmevalkit(options: dict[str, str], answer: str, rules: RuleSet) -> tuple[dict[str, str], str]:
    """Give options and letter as VLMEvalKit scores MMMU: an open question becomes one with two options."""
    if rules.open_rows == "never":
        return options, answer
    if rules.open_rows == "as options" and "A" not in options:
        options = lettered({**options, "A": answer, "B": OTHER_ANSWERS})
    return options, answer if len(answer) == 1 and answer in string.ascii_uppercase else "A"


def _verdict(benchmark: str, row: AnsweredRow, answer: object, rules: str) -> _Verdict:
    if rules not in fitting_rules(benchmark):
        fitting = ", ".join(fitting_rules(benchmark))
        raise ValueError(f"no scoring rules {rules!r} for {benchmark}; there is: {fitting}")
    if rules == EXACT:
        return _exact(row.prediction, str(answer))
    rule_set = find_rules(rules)
    if benchmark not in CHOICE_BENCHMARKS:
        return (_chart if benchmark == "chartqa_test" else _document)(row.prediction, answer, rule_set)
    if benchmark == "mmmu_dev_val" and rule_set.open_rows == "official" and is_open(row):
        return _open(row.prediction, answer)
    return _choice(benchmark, row, str(answer), rule_set)


def _choice(benchmark: str, row: AnsweredRow, answer: str, rules: RuleSet) -> _Verdict:
    options = lettered(row.options)
    if benchmark == "mmmu_dev_val" and rules.choice != "official":
        options, answer = as_vlmevalkit(options, answer, rules)
    reading = _read(row.prediction, options, rules, row.index)
    return _Verdict(
        score=float(reading.letter == answer and reading.letter in options),
        extracted=reading.letter,
        rule=reading.rule,
        failed=reading.failed,
    )


def _read(reply: str, options: dict[str, str], rules: RuleSet, index: str) -> Reading:
    if rules.choice != "official":
        return read_choice(reply, options, rules.choice)
    reading = read_official_choice(reply, options)
    if reading.letter is None and rules.guesses:
        return Reading(letter=drawn_option(options, index), rule="drawn option", failed=True)
    return reading


def _open(prediction: str, answer: object) -> _Verdict:
    items = read_open(prediction)
    found = matching_item(items, references_of(answer))
    rule = "no equal number or text" if found is None else "text" if isinstance(found, str) else "number"
    shown = [str(item) for item in items[:_SHOWN_ITEMS]] if found is None else [str(found)]
    empty = not prediction.strip()
    return _Verdict(
        score=float(found is not None),
        extracted=None if empty else "; ".join(shown),
        rule=EMPTY if empty else f"open question: {rule}",
        failed=empty,
    )


def _chart(prediction: str, answer: object, rules: RuleSet) -> _Verdict:
    prediction = prediction.strip()
    pairs = [(target, prediction) if rules.swapped else (prediction, target) for target in references_of(answer)]
    right = any(is_relaxed_match(*pair) for pair in pairs)
    number = as_number(prediction)
    return _Verdict(
        score=float(right),
        extracted=prediction or None,
        rule=EMPTY if not prediction else "text" if number is None else "number",
        failed=not prediction,
    )


def _document(prediction: str, answer: object, rules: RuleSet) -> _Verdict:
    score = anls(prediction, references_of(answer))
    empty = not prediction.strip()
    close = "same text" if score == 1 else "similar text" if score else "other text"
    return _Verdict(score=score, extracted=None if empty else prediction, rule=EMPTY if empty else close, failed=empty)


def _exact(prediction: str, answer: str) -> _Verdict:
    prediction = prediction.strip()
    same = prediction == answer.strip()
    rule = EMPTY if not prediction else "same text" if same else "other text"
    return _Verdict(score=float(same), extracted=prediction or None, rule=rule, failed=not prediction)
