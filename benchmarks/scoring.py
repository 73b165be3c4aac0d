"""Measure scoring, and its agreement with the sample vectors; print JSON.

    python benchmarks/scoring.py [--quick] [--rows 10000] [--rounds 3]

`scoring`: for each benchmark and rule set, processor seconds to judge and sum up the rows, as median, least and most
over the rounds, and the peak memory of the process, MiB, in all and above that of the rows themselves; each pair in a
process of its own. The replies are a mix: bare letters, letters in sentences, option texts, numbers, some of 2,000
characters, one in a thousand of 40,000.
`files`: processor seconds to write answers and scores, and to read the .xlsx and the .jsonl back.
`comparison`: the same for `qvl eval compare` with 10,000 resamples. `agreement`: how many of the sample vectors each
rule set reproduces. Nothing is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvl_eval.answer_files.answers import read_answers
from qvl_eval.answer_files.score_files import write_score_files
from qvl_eval.compare import compare_judged
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.rule_sets import fitting_rules
from qvl_eval.score.summary import summarise

sys.path.insert(0, str(Path(__file__).parents[1] / "packages" / "qvl-eval" / "tests"))

BENCHMARKS = ("ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val")
WORDS = (
    "the",
    "answer",
    "is",
    "that",
    "of a root",
    "which",
    "so",
    "therefore",
    "12.5",
    "1,200",
    "result",
    "final",
    "3",
)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 rows, one round")
    parser.add_argument("--rows", type=int, help="10,000; 1,000 with --quick")
    parser.add_argument("--rounds", type=int, help="3; 1 with --quick")
    parser.add_argument("--pair", nargs=2, help=argparse.SUPPRESS)
    # `nox -s bench -- --quick` gives the same words to every script.
    given = parser.parse_known_args()[0]
    rows = given.rows or (1_000 if given.quick else 10_000)
    rounds = given.rounds or (1 if given.quick else 3)
    if given.pair:
        print(json.dumps(measure_pair(*given.pair, rows, rounds)))
        return
    report = {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "rows": rows,
        "rounds": rounds,
        "scoring": {
            benchmark: {rules: in_a_process(benchmark, rules, rows, rounds) for rules in fitting_rules(benchmark)}
            for benchmark in BENCHMARKS
        },
        "files": files(rows, rounds),
        "comparison": comparison(rows, rounds),
        "agreement": agreement(),
    }
    print(json.dumps(report, indent=2))


def in_a_process(benchmark: str, rules: str, rows: int, rounds: int) -> Any:
    """Measure one pair in a process of its own, whose peak memory is then that of the pair."""
    words = ["--pair", benchmark, rules, "--rows", str(rows), "--rounds", str(rounds)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure_pair(benchmark: str, rules: str, rows: int, rounds: int) -> dict[str, Any]:
    """Give seconds and MiB of judging and summing up."""
    answered = make_rows(benchmark, rows)
    before = peak_mib()
    seconds = timed(lambda: summarise(benchmark, rules, judged_rows(benchmark, rules, answered)), rounds)
    peak = peak_mib()
    return {"cpu_s": seconds, "peak_mib": round(peak, 1), "peak_mib_above_rows": round(peak - before, 1)}


def files(rows: int, rounds: int) -> dict[str, Any]:
    """Give seconds of writing the files of two rule sets, and of reading answers back."""
    answered = make_rows("ai2d_test", rows)
    results = []
    for rules in ("vlmevalkit-2026-06", "mindspeed"):
        judged = judged_rows("ai2d_test", rules, answered)
        results.append((summarise("ai2d_test", rules, judged), judged))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps({**vars(row), "options": dict(row.options)}) + "\n" for row in answered]
        (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
        writing = timed(lambda: write_score_files(folder, "m", "ai2d_test", results), rounds)
        return {
            "write_cpu_s": writing,
            "read_xlsx_cpu_s": timed(lambda: read_answers(folder / "m_ai2d_test.xlsx", "ai2d_test"), rounds),
            "read_jsonl_cpu_s": timed(lambda: read_answers(folder / "predictions.jsonl", "ai2d_test"), rounds),
            "xlsx_mb": round((folder / "m_ai2d_test.xlsx").stat().st_size / 1e6, 2),
        }


def comparison(rows: int, rounds: int) -> dict[str, Any]:
    """Give seconds of comparing two models, four rows a picture."""
    sides = [judged_rows("ai2d_test", "mindspeed", make_rows("ai2d_test", rows, seed)) for seed in (1, 2)]
    return {"cpu_s": timed(lambda: compare_judged("ai2d_test", sides[0], sides[1]), rounds)}


def agreement() -> dict[str, dict[str, str]]:
    """Count, for each rule set and metric, the sample vectors that are reproduced."""
    from vector_cases import found_and_wanted, scored_vectors

    counts: dict[str, dict[str, list[bool]]] = {}
    for rules, vector in scored_vectors():
        found, wanted = found_and_wanted(rules, vector)
        counts.setdefault(rules, {}).setdefault(vector["metric"], []).append(found == wanted)
    return {
        rules: {metric: f"{sum(same)} of {len(same)}" for metric, same in metrics.items()}
        for rules, metrics in counts.items()
    }


def judged_rows(benchmark: str, rules: str, rows: list[AnsweredRow]) -> list[Judged]:
    """Judge all rows."""
    return [judge(benchmark, row, rules) for row in rows]


def make_rows(benchmark: str, number: int, seed: int = 0) -> list[AnsweredRow]:
    """Make rows with options where the benchmark has them; one MMMU row in seventeen is open."""
    draw = random.Random(seed)
    rows = []
    for i in range(number):
        is_open = benchmark == "mmmu_dev_val" and i % 17 == 0
        has_options = benchmark in ("ai2d_test", "mmmu_dev_val") and not is_open
        options = {"A": "chlorophyll", "B": "root", "C": "stem", "D": "leaf"} if has_options else {}
        rows.append(
            AnsweredRow(
                index=str(i),
                answer="ABCD"[i % 4] if has_options else str(draw.choice([12.5, 40, "a root", "['12', 'twelve']"])),
                prediction=make_reply(draw, i),
                question="Which part is it?",
                options=options,
                split="validation",
                subcategory=f"subject {i % 30}",
                category=f"domain {i % 6}",
                images=(f"picture {i // 4}",),
            )
        )
    return rows


def make_reply(draw: random.Random, number: int) -> str:
    """Make one reply of the mix."""
    letter = draw.choice("ABCD")
    if number % 1000 == 7:
        return " ".join(draw.choices(WORDS, k=7_000))[:40_000]
    if number % 20 == 3:
        return " ".join(draw.choices(WORDS, k=350))[:2_000]
    sentence = " ".join(draw.choices(WORDS, k=12))
    return draw.choice(
        [letter, f"({letter})", f"The answer is {letter}. {sentence}", sentence, "12.4", "root", "1,200"]
    )


def timed(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """Give the processor seconds of a piece of work over the rounds."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return {
        "median": round(statistics.median(spent), 3),
        "least": round(min(spent), 3),
        "most": round(max(spent), 3),
    }


def peak_mib() -> float:
    """Give this process's peak memory so far, MiB, on Linux. `getrusage` would count that of the process before it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


if __name__ == "__main__":
    main()
