"""Conversions of one folder against `cp` and against the usual way, side by side, from a cold and a warm source."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conversion.processes import (
    GB,
    Measured,
    bare_interpreter_mib,
    convert,
    count_weights,
    make_cold,
    make_folder,
    make_warm,
    measure,
    remove,
    say,
    size_of,
    spread,
)

USUAL_WAY = Path(__file__).with_name("usual_way.py")
TEMPERATURES: dict[str, Callable[[Path], None]] = {"cold": make_cold, "warm": make_warm}
FULL = ("--model", "qwen2.5-vl-7b", "--text", "4", "--vision", "8")
# A vocabulary of an eighteenth: 1 GB without leaving the width of the layers.
QUICK = ("--model", "qwen2.5-vl-7b", "--text", "2", "--vision", "2", "--vocabulary", "8192")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A conversion: what it reads, and its command line for an output folder."""

    name: str
    source: Path
    command: Callable[[Path], list[str]]


@dataclass(kw_only=True)
class Runs:
    """What was measured of a case: itself, and the two copies right before it."""

    own: list[Measured] = field(default_factory=list)
    synced: list[Measured] = field(default_factory=list)
    copies: list[Measured] = field(default_factory=list)


def measure_speed(work: Path, rounds: int, *, quick: bool, torch_python: str | None) -> dict[str, Any]:
    """Give the report of `rounds` rounds. `cp` without sync is measured once a round, all else beside each case."""
    hf, plan = work / "hf", work / "plan.json"
    pipeline = 2 if quick else 4
    make_folder(hf, *(QUICK if quick else FULL), "--plan", f"2,{pipeline}", str(plan))
    cases = _cases(work, hf, pipeline)
    for case in cases:
        if not case.source.exists():
            measure(_source_command(case.source, hf, pipeline))
    base = bare_interpreter_mib()
    report: dict[str, Any] = {"rounds": rounds, "source": _described(hf), "bare_interpreter_mib": round(base, 1)}
    usual = usual_command(torch_python, hf, plan)
    for temperature, prepare in TEMPERATURES.items():
        found = {case.name: Runs() for case in cases}
        others: list[tuple[Measured, Measured]] = []
        for number in range(rounds):
            say(f"{temperature}, round {number + 1} of {rounds}")
            copied = _measured(_copy(cases[0].source, work / "out", sync=False), cases[0].source, work / "out", prepare)
            for case in cases:
                runs = found[case.name]
                runs.copies.append(copied)
                synced = _copy(case.source, work / "out", sync=True)
                runs.synced.append(_measured(synced, case.source, work / "out", prepare))
                runs.own.append(_measured(case.command(work / "out"), case.source, work / "out", prepare))
            if isinstance(usual, list):
                others.append(
                    (_measured([*usual, str(work / "out")], hf, work / "out", prepare), found["import"].own[-1])
                )
        size = size_of(hf)
        report[temperature] = {name: described(runs, base, size) for name, runs in found.items()}
        report[temperature]["usual way"] = (
            _against(others, base) if isinstance(usual, list) else {"not measured": usual}
        )
    return report


def _cases(work: Path, hf: Path, pipeline: int) -> list[Case]:
    sharded, staged = work / f"tp2-pp{pipeline}", work / f"pp{pipeline}"
    wide = ("--tp", "4", "--pp", "2")
    return [
        Case(
            name="import",
            source=hf,
            command=lambda out: convert("import", "--hf", hf, "--out", out, "--tp", "2", "--pp", str(pipeline)),
        ),
        Case(
            name=f"reshard tp2 pp{pipeline} to tp4 pp2",
            source=sharded,
            command=lambda out: convert("reshard", "--sharded", sharded, "--out", out, *wide),
        ),
        Case(
            name=f"reshard pp{pipeline} to pp2",
            source=staged,
            command=lambda out: convert("reshard", "--sharded", staged, "--out", out, "--pp", "2"),
        ),
        Case(
            name=f"export tp2 pp{pipeline}",
            source=sharded,
            command=lambda out: convert("export", "--sharded", sharded, "--out", out),
        ),
    ]


def _source_command(sharded: Path, hf: Path, pipeline: int) -> list[str]:
    tp = "2" if sharded.name.startswith("tp2") else "1"
    return convert("import", "--hf", hf, "--out", sharded, "--tp", tp, "--pp", str(pipeline))


def _copy(source: Path, out: Path, *, sync: bool) -> list[str]:
    """Give the command of a copy. The sync is that of the output's file system, as the conversion ends with one."""
    return ["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"' if sync else 'cp -r "$0" "$1"', str(source), str(out)]


def _measured(command: Sequence[str], source: Path, out: Path, prepare: Callable[[Path], None]) -> Measured:
    remove(out)
    prepare(source)
    found = measure(command)
    remove(out)
    return found


def described(runs: Runs, base_mib: float, size: int) -> dict[str, Any]:
    """Give what a case needed, and its ratios, each to the copy of its own round."""
    walls = [run.wall_s for run in runs.own]
    return {
        "wall_s": spread(walls),
        "cpu_s": round(statistics.median(run.cpu_s for run in runs.own), 2),
        "gb_per_s": round(size / GB / statistics.median(walls), 2),
        "cp_sync_s": spread([run.wall_s for run in runs.synced]),
        "cp_s": spread([run.wall_s for run in runs.copies]),
        "ratio_to_cp_sync": spread(_ratios(runs.own, runs.synced)),
        "ratio_to_cp": spread(_ratios(runs.own, runs.copies)),
        "memory_mib_beyond_interpreter": round(max(run.memory_mib for run in runs.own) - base_mib, 1),
    }


def usual_command(torch_python: str | None, hf: Path, plan: Path) -> list[str] | str:
    """Give the command of the usual way without its output, or why it cannot be measured."""
    if torch_python is None:
        return "no --torch-python was given"
    if shutil.which(torch_python) is None:
        return f"{torch_python} is not there"
    probe = subprocess.run([torch_python, "-c", "import torch, safetensors"], capture_output=True, text=True)
    if probe.returncode:
        return f"{torch_python}: {probe.stderr.strip().splitlines()[-1]}"
    return [torch_python, str(USUAL_WAY), str(hf), str(plan)]


def _against(pairs: Sequence[tuple[Measured, Measured]], base_mib: float) -> dict[str, Any]:
    usual, ours = [one for one, _ in pairs], [other for _, other in pairs]
    return {
        "what": "load_file into one dict, rename, split, torch.save per rank; not synced to disk",
        "wall_s": spread([run.wall_s for run in usual]),
        "cpu_s": round(statistics.median(run.cpu_s for run in usual), 2),
        "memory_mib_beyond_interpreter": round(max(run.memory_mib for run in usual) - base_mib, 1),
        "times_as_long_as_import": spread(_ratios(usual, ours)),
    }


def _ratios(own: Sequence[Measured], others: Sequence[Measured]) -> list[float]:
    return [one.wall_s / other.wall_s for one, other in zip(own, others, strict=True)]


def _described(folder: Path) -> dict[str, int]:
    return {"bytes": size_of(folder), "weights_files": count_weights(folder)}
