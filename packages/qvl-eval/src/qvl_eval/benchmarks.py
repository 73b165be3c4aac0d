"""The benchmarks that can be run: what sets each apart, and the limits of pixels that have a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qvl_core.errors import NotInstalledError, Problem, RecipeError

from qvl_eval.prompts import PromptKind
from qvl_eval.score.rule_sets import fitting_rules


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What sets one benchmark apart. `classes` is the number of equally likely answers, 0 where there is no such.

    `kind` is how its rows are asked, `scored_as` the benchmark whose scoring rules are its own.
    """

    name: str
    title: str
    kind: PromptKind
    scored_as: str
    classes: int = 0
    columns: tuple[str, ...] = ("index", "image", "question", "answer")

    @property
    def chance(self) -> float | None:
        """Give the accuracy of guessing, 0 to 1; None where guessing has no rate of its own."""
        return 1 / self.classes if self.classes else None

    @property
    def rules(self) -> tuple[str, ...]:
        """Name the scoring rules that fit its answers."""
        return fitting_rules(self.scored_as)


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="ai2d_test",
            title="AI2D: questions about diagrams, letters painted over the labels",
            kind="choice",
            scored_as="ai2d_test",
            columns=("index", "image", "question", "answer", "A", "B"),
        ),
        Benchmark(
            name="chartqa_test",
            title="ChartQA: questions about charts, relaxed accuracy",
            kind="short answer",
            scored_as="chartqa_test",
        ),
        Benchmark(
            name="docvqa_val",
            title="DocVQA: questions about scanned pages, ANLS",
            kind="short answer",
            scored_as="docvqa_val",
        ),
        Benchmark(
            name="mmmu_dev_val",
            title="MMMU: questions of 30 subjects, one to seven pictures",
            kind="interleaved choice",
            scored_as="mmmu_dev_val",
            columns=("index", "image", "question", "answer", "A", "B"),
        ),
        Benchmark(
            name="digits_test",
            title="handwritten digits that were not trained on",
            kind="plain",
            scored_as="digits_test",
            classes=10,
        ),
        Benchmark(name="held_out", title="held-out questions", kind="plain", scored_as="digits_test"),
    )
}

# Smallest and largest area of a picture, pixels. facts: VLMEvalKit and MindSpeed-MM 1,280 and 16,384 tokens of
# 28 x 28; the vendor's MMMU script for Qwen3-VL 1,280 and 5,120; lmms-eval; the demo values of the vendor's guide.
PIXEL_LIMITS: Mapping[str, tuple[int, int]] = {
    "vlmevalkit": (1280 * 28 * 28, 16384 * 28 * 28),
    "mindspeed": (1280 * 28 * 28, 16384 * 28 * 28),
    "qwen3-vl": (1280 * 28 * 28, 5120 * 28 * 28),
    "lmms-eval": (256 * 28 * 28, 1605632),
    "demo": (256 * 28 * 28, 1280 * 28 * 28),
}


def find_benchmark(name: str, rules: Sequence[str], *, where: str) -> Benchmark:
    """Give the benchmark. `where` is the recipe's path, for messages.

    Raises NotInstalledError for a benchmark that this version does not have, RecipeError for unfitting rules.
    """
    if name not in BENCHMARKS:
        raise NotInstalledError(
            f"{where}: eval.benchmark\n  {name} is not in this version of qvl-eval; it has: {', '.join(BENCHMARKS)}\n"
            "  fix: pip install --upgrade qvl-eval"
        )
    benchmark = BENCHMARKS[name]
    problems = [
        Problem(
            where=where,
            key="eval.rules",
            message=f"{one} does not fit {name}; it is scored by: {', '.join(benchmark.rules)}",
            fix=f'rules = "{benchmark.rules[0]}"',
        )
        for one in rules
        if one not in benchmark.rules
    ]
    if problems:
        raise RecipeError(problems)
    return benchmark
