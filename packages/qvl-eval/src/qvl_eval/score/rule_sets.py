"""The rule sets by name. Each name is pinned to what one release of an evaluation tool does; see docs/evaluate.md.

Source: VLMEvalKit at e8e78f05 and before its changes of 2025-08-04 (letters), 2025-09-01 (charts) and 2026-06-17 (the
words "answer is"); MindSpeed-MM at 57069cd5; MMMU at bb0b95a9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ChoiceRules = Literal["legacy", "2025-08", "2026-06", "official"]
OpenRules = Literal["as options", "never", "official"]

BENCHMARKS = ("ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val", "digits_test", "held_out")
CHOICE_BENCHMARKS = ("ai2d_test", "mmmu_dev_val")
EXACT = "exact"


@dataclass(frozen=True, kw_only=True)
class RuleSet:
    """How each kind of row is scored. None for what the rule set has no rules for.

    `swapped` hands prediction and target of a chart question over in the wrong order. `open_rows` is how MMMU questions
    without options are scored. `guesses` picks an option, by row, where none can be read.
    """

    name: str
    title: str
    choice: ChoiceRules
    open_rows: OpenRules
    swapped: bool | None = None
    guesses: bool = False


_PURE = (
    RuleSet(
        name="vlmevalkit-2026-06",
        title="VLMEvalKit since 2026-06-17, without a judge model",
        choice="2026-06",
        open_rows="as options",
        swapped=False,
    ),
    RuleSet(
        name="vlmevalkit-2025-09",
        title="VLMEvalKit from 2025-09-01 to 2026-06-16, without a judge model",
        choice="2025-08",
        open_rows="as options",
        swapped=False,
    ),
    RuleSet(
        name="vlmevalkit-legacy",
        title="VLMEvalKit before 2025-08-04, without a judge model",
        choice="legacy",
        open_rows="as options",
        swapped=True,
    ),
    RuleSet(name="mindspeed", title="MindSpeed-MM", choice="legacy", open_rows="never", swapped=True),
    RuleSet(
        name="mmmu-official",
        title="MMMU's own rules; a reply without an option counts as wrong",
        choice="official",
        open_rows="official",
    ),
    RuleSet(
        name="mmmu-official-random",
        title="MMMU's own rules; a reply without an option gets one drawn by the row's index",
        choice="official",
        open_rows="official",
        guesses=True,
    ),
)
# MMMU's headline: options are read as VLMEvalKit does, open questions as MMMU itself.
_MIXED = tuple(
    RuleSet(
        name=f"{pure.name}+mmmu-official",
        title=f"options as {pure.name}, open questions as mmmu-official",
        choice=pure.choice,
        open_rows="official",
    )
    for pure in _PURE[:3]
)
RULE_SETS = {rules.name: rules for rules in (*_PURE, *_MIXED)}

_LETTERS = tuple(rules.name for rules in _PURE)
_TEXTS = tuple(rules.name for rules in _PURE if rules.swapped is not None)
_FITTING = {
    "ai2d_test": _LETTERS,
    "chartqa_test": _TEXTS,
    "docvqa_val": _TEXTS,
    "mmmu_dev_val": (*(rules.name for rules in _MIXED), *_LETTERS),
    "digits_test": (EXACT,),
    "held_out": (EXACT,),
}
_HEADLINE = {"mmmu_dev_val": ("vlmevalkit-2026-06+mmmu-official", "vlmevalkit-2026-06", "mmmu-official")}


def benchmark_name(written: str) -> str:
    """Give the name of a benchmark that is written in any case. Raises ValueError for one that is not known."""
    name = str(written).lower()
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {written!r}; there is: {', '.join(BENCHMARKS)}")
    return name


def fitting_rules(benchmark: str) -> tuple[str, ...]:
    """Give the names of the rule sets that can score a benchmark. Raises ValueError for an unknown benchmark."""
    return _FITTING[benchmark_name(benchmark)]


def headline_rules(benchmark: str) -> tuple[str, ...]:
    """Give the rule sets to report, the headline's first. Raises ValueError for an unknown benchmark."""
    name = benchmark_name(benchmark)
    return _HEADLINE.get(name, fitting_rules(name)[:1])


def find_rules(name: str) -> RuleSet:
    """Give a rule set by its name. Raises ValueError for one that does not exist."""
    if name not in RULE_SETS:
        raise ValueError(f"no scoring rules {name!r}; there is: {', '.join(RULE_SETS)}")
    return RULE_SETS[name]
