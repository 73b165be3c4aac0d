"""Measure the HTML report: building it, its size, and opening and filtering it in a browser; print JSON.

    python benchmarks/report_page.py [--quick] [--rows 10000] [--rounds 3]

Rows as MMMU has them: 30 subjects, five rule sets, one to four pictures of 1,024 x 768.
`build`: seconds on the clock and of the processor as median, least and most over the rounds, the size of the page in
MB, and the memory of the process above that of the rows, MiB; with no picture, with few that many rows share, and with
many; each in a process of its own.
`browser`: seconds to open the page and to show the answer to a filter, to the first search (which reads all rows) and
to the next, with its script; seconds to open it without. Left out where no chromium is installed. Nothing is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "packages" / "qvl-eval" / "tests"))

from devtools import BrowserPage, find_browser
from qvl_eval.report import write_report
from report_cases import PROTOCOL, Pictures, choice_rows, picture, results_of

RULES = ("vlmevalkit-2026-06", "vlmevalkit-2025-09", "vlmevalkit-legacy", "mindspeed", "mmmu-official")
DIFFERENT_DRAWINGS = 40


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 rows, one round")
    parser.add_argument("--rows", type=int, help="10,000; 1,000 with --quick")
    parser.add_argument("--rounds", type=int, help="3; 1 with --quick")
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    # `nox -s bench -- --quick` gives the same words to every script.
    given = parser.parse_known_args()[0]
    rows = given.rows or (1_000 if given.quick else 10_000)
    rounds = given.rounds or (1 if given.quick else 3)
    if given.build:
        print(json.dumps(build(rows, int(given.build[0]), rounds, Path(given.build[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report = {
            "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
            "rows": rows,
            "rounds": rounds,
            "build": {
                f"{count} pictures": in_a_process(rows, count, rounds, page) for count in (0, rows // 100, rows // 4)
            },
            "browser": in_a_browser(page, rounds),
        }
    print(json.dumps(report, indent=2))


def in_a_process(rows: int, pictures: int, rounds: int, page: Path) -> dict[str, Any]:
    """Measure one build in a new process, so that memory is its own."""
    command = [sys.executable, __file__, "--build", str(pictures), str(page), "--rows", str(rows)]
    return json.loads(subprocess.check_output([*command, "--rounds", str(rounds)]))


def build(rows: int, pictures: int, rounds: int, page: Path) -> dict[str, Any]:
    """Write the page as often as there are rounds; the last one stays."""
    drawings = [picture(number, 1024, 768) for number in range(min(pictures, DIFFERENT_DRAWINGS))]
    # Bytes behind the end of a JPEG make it another file and leave the drawing as it is.
    files = [drawings[number % len(drawings)] + number.to_bytes(4, "big") for number in range(pictures)]
    source = Pictures(files)
    results = results_of(choice_rows(rows, pictures=source, mmmu=True), rules=RULES, benchmark="mmmu_dev_val")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, processor_s = [], []
    for _ in range(rounds):
        clock, processor = time.perf_counter(), time.process_time()
        write_report(page, title="measured", protocol=PROTOCOL, results=results, pictures=source, overwrite=True)
        seconds.append(time.perf_counter() - clock)
        processor_s.append(time.process_time() - processor)
    return {
        "seconds": spread(seconds),
        "processor_s": spread(processor_s),
        "page_mb": round(page.stat().st_size / 1e6, 1),
        "memory_above_rows_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
    }


def in_a_browser(page: Path, rounds: int) -> dict[str, Any] | str:
    """Open and filter the page, each round in a browser of its own."""
    browser = find_browser()
    if browser is None:
        return "no chromium or chrome is installed"
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for scripts in (True, False):
            with BrowserPage(browser, scripts=scripts) as shown:
                clock = time.perf_counter()
                shown.open(page)
                name = "open_s" if scripts else "open_without_scripts_s"
                found.setdefault(name, []).append(time.perf_counter() - clock)
                if scripts:
                    for step, (field, value) in STEPS.items():
                        clock = time.perf_counter()
                        shown.choose(field, value)
                        shown.settle()
                        found.setdefault(step, []).append(time.perf_counter() - clock)
    return {name: spread(values) for name, values in found.items()}


STEPS = {"filter_s": ("result", "all"), "first_search_s": ("search", "label 77"), "search_s": ("search", "label 78")}


def spread(values: list[float]) -> dict[str, float]:
    """Give the median, the least and the most."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
