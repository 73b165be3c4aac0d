"""Start the programs, watch them, and tell for each case what came of it. Starts no MindSpore itself.

Nothing here waits without a limit: a launch that takes too long is ended with everything that it started.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cases import Case
from qvl_core.launch.proc import all_statuses

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
HERE = Path(__file__).parent
PROCESSES = 8
# How long a rank may be without progress within a case; a micro batch takes half a second where the cores are free.
CASE_LIMIT_S = 600.0
# A launch in which no rank has made progress for this long is ended from outside, whatever the reason.
SILENCE_LIMIT_S = 1800.0
# After so many launches that died, the cases that are left fail with them.
MOST_LAUNCHES = 4


@dataclass(kw_only=True)
class Outcomes:
    """What came of the cases: each rank's result in rank order, or why there is none."""

    results: dict[str, list[Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    launches: int = 0


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """What the records of a launch say of its cases. `stuck` are those in which a rank's watchdog gave up."""

    results: dict[str, dict[int, Any]]
    started: set[str]
    stuck: set[str]
    errors: dict[str, str]


def run_cases(
    cases: Sequence[Case],
    folder: Path,
    *,
    work: str = "engine_work",
    references: Path | None = None,
    processes: int = PROCESSES,
    case_limit_s: float = CASE_LIMIT_S,
    say: Callable[[str], None] = lambda text: None,
) -> Outcomes:
    """Run the cases. After a launch that died, the cases that did not cause it and have no result are started again."""
    outcomes = Outcomes()
    left = sorted(cases, key=_work_of, reverse=True)
    while left and outcomes.launches < MOST_LAUNCHES:
        outcomes.launches += 1
        launch_folder = folder / f"launch_{outcomes.launches}"
        launch_folder.mkdir(parents=True)
        entries = assign(left, processes)
        plan = {
            "work": work,
            "references": str(references or folder),
            "case_limit_s": case_limit_s,
            "entries": [{"case": case.to_json(), "ranks": ranks} for case, ranks in entries],
        }
        (launch_folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        size = 1 + max(rank for _, ranks in entries for rank in ranks)
        ending = _launch(launch_folder, size, len(cases) - len(left), len(cases), say)
        _take(left, _read(launch_folder, size), ending, launch_folder, case_limit_s, outcomes)
        left = [case for case in left if case.name not in outcomes.results and case.name not in outcomes.failures]
    for case in left:
        outcomes.failures[case.name] = f"not run: {outcomes.launches} launches died before it, see the other failures"
    return outcomes


def assign(cases: Sequence[Case], processes: int) -> list[tuple[Case, list[int]]]:
    """Give each case its ranks: those with the least work so far, in an order that all ranks follow."""
    load = [0.0] * processes
    found = []
    for case in cases:
        ranks = sorted(sorted(range(processes), key=lambda rank: (load[rank], rank))[: case.world_size])
        free = max(load[rank] for rank in ranks)
        for rank in ranks:
            load[rank] = free + _work_of(case) / case.world_size
        found.append((case, ranks))
    return found


def write_references(cases: Sequence[Case], folder: Path, *, limit_s: float, say: Callable[[str], None]) -> None:
    """Train the single processes of these cases, a program a core. Raises RuntimeError if one of them fails."""
    longest: dict[Case, int] = {}
    for case in cases:
        key = replace(case.reference, steps=1)
        longest[key] = max(longest.get(key, 0), case.steps)
    wanted = [replace(case, steps=steps) for case, steps in longest.items()]
    wanted = sorted((case for case in wanted if not _has_reference(folder, case)), key=_work_of, reverse=True)
    if not wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "references.json").write_text(json.dumps([case.to_json() for case in wanted]), encoding="utf-8")
    parts = min(len(os.sched_getaffinity(0)), 4, len(wanted))
    started = time.monotonic()
    commands = [
        [sys.executable, str(HERE / "reference.py"), str(folder), str(part), str(parts)] for part in range(parts)
    ]
    logs = [folder / f"reference_{part}.log" for part in range(parts)]
    processes = [_start(command, log) for command, log in zip(commands, logs, strict=True)]
    try:
        for process, log in zip(processes, logs, strict=True):
            left = max(1.0, started + limit_s - time.monotonic())
            if process.wait(left) != 0:
                raise RuntimeError(f"a single process failed:\n{_tail(log)}")
    finally:
        for process in processes:
            _end(process)
    say(f"{len(wanted)} single processes took {time.monotonic() - started:.0f} s")


def _launch(folder: Path, size: int, done: int, total: int, say: Callable[[str], None]) -> str:
    """Run the program to its end; give how it ended, "" where well."""
    log = folder / "mpiexec.log"
    process = _start(_mpiexec(size, folder), log)
    shown = time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if time.time() - max(path.stat().st_mtime for path in folder.iterdir()) > SILENCE_LIMIT_S:
                return f"no rank made progress for {SILENCE_LIMIT_S:.0f} s; the launch was ended"
            if now - shown > 30:
                shown = now
                results = sum(len(of) == _ranks_of(name) for name, of in _read(folder, size).results.items())
                say(f"{done + results} of {total} cases")
    finally:
        _end(process)
    return "" if process.returncode == 0 else f"mpiexec ended with {process.returncode}:\n{_tail(log)}"


def _ranks_of(name: str) -> int:
    """Read the world size from a case's name."""
    sizes = [int(part[2:]) for part in name.split("-")[1:4]]
    return sizes[0] * sizes[1] * sizes[2]


def _mpiexec(size: int, folder: Path) -> list[str]:
    command = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(size), "--oversubscribe"]
    command += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    # Ranks that wait yield their core; all of them meet in this machine's shared memory, no port is opened.
    for name, value in (("mpi_yield_when_idle", "1"), ("pml", "ob1"), ("btl", "^tcp,ofi")):
        command += ["--mca", name, value]
    return [*command, sys.executable, str(HERE / "program.py"), str(folder)]


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        # A session of its own: all that it starts can be found, and ended, by it.
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Have the system end this process when the one that started it ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything in its session; mpiexec itself first, which then takes its ranks with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(120)
    for status in all_statuses():
        if status.session == process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.process, signal.SIGKILL)


def _read(folder: Path, size: int) -> _Progress:
    results: dict[str, dict[int, Any]] = defaultdict(dict)
    started: set[str] = set()
    stuck: set[str] = set()
    errors: dict[str, str] = {}
    for rank in range(size):
        path = folder / f"rank_{rank}.jsonl"
        at = "(before the first case)"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off by the end of its process; then this rank has no result either
            at = row.get("case", at)
            if row["event"] == "start":
                started.add(at)
            elif row["event"] == "result":
                results[at][rank] = row["result"]
            elif row["event"] == "error":
                errors[at] = f"rank {rank} of the launch:\n{row['text']}"
        if "Timeout (" in _tail(folder / f"rank_{rank}.log"):
            stuck.add(at)
    return _Progress(results=results, started=started, stuck=stuck, errors=errors)


def _take(
    cases: Sequence[Case], found: _Progress, ending: str, folder: Path, case_limit_s: float, outcomes: Outcomes
) -> None:
    """Note results, and failures of the cases to which the end of the launch is due."""
    failed: dict[str, str] = {}
    under_way = []
    for case in cases:
        ranks = found.results.get(case.name, {})
        if len(ranks) == case.world_size:
            outcomes.results[case.name] = [ranks[rank] for rank in sorted(ranks)]
        elif case.name in found.errors:
            failed[case.name] = found.errors[case.name]
        elif case.name in found.started:
            under_way.append(case.name)
    # An error and a watchdog's end are known to be a case's own. Else every case under way may be the cause.
    stuck = [name for name in under_way if name in found.stuck]
    for name in stuck or ([] if failed else under_way):
        what = f"made no progress for {case_limit_s:.0f} s" if name in stuck else "was running when the launch ended"
        tails = [(log, _tail(log)) for log in sorted(folder.glob("rank_*.log"))]
        stacks = "\n".join(f"{log.stem}:\n{text}" for log, text in tails if "Timeout (" in text)
        failed[name] = f"{what}; {ending}\n{stacks}"
    if ending and not failed:
        # No case is to blame: the program itself does not run, and would not the next time.
        text = "\n".join(found.errors.values())
        failed = {case.name: f"the program ended outside of its cases: {ending}\n{text}" for case in cases}
    outcomes.failures.update({name: text for name, text in failed.items() if name not in outcomes.results})


def _work_of(case: Case) -> float:
    """Estimate the work of a case: passes of micro batches, more with tensor ranks and for stages that run twice."""
    return case.steps * case.micro_batches * case.tp * (1.3 if case.pp > 1 else 1.0) + case.world_size


def _has_reference(folder: Path, case: Case) -> bool:
    from engine_work import read_reference, reference_path

    return reference_path(folder, case).exists() and len(read_reference(folder, case)["losses"]) >= case.steps


def _tail(path: Path, characters: int = 4000) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-characters:] if path.exists() else ""
