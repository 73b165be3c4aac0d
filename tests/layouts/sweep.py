"""Run every combination of the tiny model, or a part of it: `sweep.py --folder FOLDER [--part I/N] [--limit CASES]`.

There are 240,240 of them, in an order that mixes all values: any part is a fair sample. What is done stands in
FOLDER/done.jsonl and is not done again. Ends with 1 if a case is not equal to its single process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from cases import Case
from comparison import judge
from engine_work import read_reference
from launching import run_cases, write_references
from selection import every

# Cases of one start of the processes.
_CHUNK = 120


def main() -> int:
    """Run what is left of the part and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--part", default="1/1", help="which part of how many, from 1")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many cases; 0 is all")
    options = parser.parse_args()
    number, parts = (int(text) for text in options.part.split("/"))
    options.folder.mkdir(parents=True, exist_ok=True)
    done = options.folder / "done.jsonl"
    known = {row["case"] for row in _rows(done)}
    cases = (case for case in islice(every(), number - 1, None, parts) if case.name not in known)
    left = list(islice(cases, options.limit or None))
    print(f"{len(known)} cases are done, {len(left)} to do", flush=True)
    for start in range(0, len(left), _CHUNK):
        _run(left[start : start + _CHUNK], options.folder, done)
        print(_summary(_rows(done)), flush=True)
    return 1 if any(row["failures"] for row in _rows(done)) else 0


def _run(cases: list[Case], folder: Path, done: Path) -> None:
    references, launches = folder / "references", folder / f"launches_{time.time_ns()}"
    write_references(cases, references, limit_s=7200, say=_say)
    outcomes = run_cases(cases, launches, references=references)
    with done.open("a", encoding="utf-8") as rows:
        for case in cases:
            row: dict[str, Any] = {"case": case.name}
            if case.name in outcomes.results:
                verdict = judge(case, outcomes.results[case.name], read_reference(references, case))
                row |= {"worst": verdict.worst_name, "gradient": verdict.worst_error, "loss": verdict.loss_error}
                row |= {"norm": verdict.norm_error, "failures": list(verdict.failures)}
            else:
                row["failures"] = [outcomes.failures[case.name]]
            rows.write(json.dumps(row) + "\n")
    if not outcomes.failures:
        shutil.rmtree(launches)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _summary(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    failed = [row for row in rows if row["failures"]]
    worst = max((row for row in rows if "gradient" in row), key=lambda row: row["gradient"], default=None)
    lines = [f"{len(rows)} cases, {len(failed)} not equal"]
    if worst:
        lines.append(f"worst gradient {worst['gradient']:.1e} ({worst['worst']}, {worst['case']})")
        lines.append(f"worst loss {max(row.get('loss', 0.0) for row in rows):.1e}")
    lines += [f"NOT EQUAL {row['case']}: {row['failures'][0]}" for row in failed[:10]]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
