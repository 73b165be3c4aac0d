"""The benchmarks that can be run, and those whose names are known but which are not there yet."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.errors import NotInstalledError, Problem, RecipeError


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What sets one benchmark apart. `classes` is the number of equally likely answers, which makes chance.

    `rules` are the scoring rules that fit its answers, by the names of `score.py`; the first is its own.
    """

    name: str
    title: str
    classes: int
    rules: tuple[str, ...]
    columns: tuple[str, ...] = ("index", "image", "question", "answer")

    @property
    def chance(self) -> float:
        """Give the accuracy of guessing, 0 to 1."""
        return 1 / self.classes


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="digits_test", title="handwritten digits that were not trained on", classes=10, rules=("exact",)
        ),
    )
}
# Names that recipes may carry today; a later version of this package answers and scores them.
LATER = ("ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val")


def find_benchmark(name: str, rules: str, *, where: str) -> Benchmark:
    """Give the benchmark. `where` is the recipe's path, for messages.

    Raises NotInstalledError for a benchmark that this version does not have, RecipeError for unfitting rules.
    """
    if name not in BENCHMARKS:
        known = "is not in this version of qvl-eval" if name in LATER else "is not known"
        raise NotInstalledError(
            f"{where}: eval.benchmark\n  {name} {known}; it has: {', '.join(BENCHMARKS)}\n"
            "  fix: pip install --upgrade qvl-eval"
        )
    benchmark = BENCHMARKS[name]
    if rules not in benchmark.rules:
        raise RecipeError(
            Problem(
                where=where,
                key="eval.rules",
                message=f"{rules} does not fit {name}; it is scored by: {', '.join(benchmark.rules)}",
                fix=f'rules = "{benchmark.rules[0]}"',
            )
        )
    return benchmark
