"""Measure generation against HF `generate` on torch, on one core of this machine; print JSON. Needs torch.

    python benchmarks/generation.py [--rounds 3] [--seconds 900] [--core N] [--batch N]      or: nox -s bench-torch

The model is the shape `small` (see training_speed.py) with random weights, the same in both; prompts of 294 tokens, 256
of them a picture of 448 x 448, each of another picture and text; 64 new tokens, greedy, batches of 1, 4 and 8. Each
side is a process of its own on the same core with one thread, a new one for each batch size, so that `peak_gib` is that
of the batch (largest resident memory, weights included); in every round they take turns: a busy machine slows both, and
a ratio is that of a round: median, least and most. After `--seconds` nothing further is begun but the first round of a
part that has warmed up: `rounds` says how many a part had, `left_out` which parts there was no time for. Each part is
told on stderr when it is done.

`first_s` is the time from the request to the first token of all rows, `decode` what the other 63 of each row take. The
first round of each is not counted: there our side compiles its steps, which takes what `warm_up_s` says more.
`same_tokens` says whether both sides chose the same: the program ends with 1 where they did not. 3: torch is missing.

`cache` compares the memory of keys and values with the formula 2 x layers x kv heads x head size x 4 bytes for each
token of all slots, and with the tokens that are there at the end. `mixed` answers 24 requests of mixed lengths, a third
with a picture, with 8 slots and one at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generating.prompts import NEW_TOKENS
from training.case import CASES
from training.shape import SMALL, write_weights
from training.sides import FailedError, Side

PROGRAMS = Path(__file__).parent / "generating"
BATCHES = (1, 4, 8)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=900.0, help="begin no further round after so long")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, choices=BATCHES, help="only this batch size, and no mixed lengths")
    given = parser.parse_args()
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)}: not installed\nfix: nox -s bench-torch, which installs them", file=sys.stderr)
        sys.exit(3)
    batches = BATCHES if given.batch is None else (given.batch,)
    report: dict[str, Any] = {
        "machine": {"core": given.core, "python": platform.python_version(), "load_at_start": os.getloadavg()[0]},
    }
    turns = Turns(given.rounds, time.monotonic() + given.seconds)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_weights(SMALL, folder / "weights.f32")
            report["batches"] = {}
            for batch in batches:
                if turns.are_over:
                    report.setdefault("left_out", []).append(f"batch {batch}")
                    continue
                with _side("ours", folder, given.core) as ours, _side("torch", folder, given.core) as theirs:
                    report["machine"] |= {**ours.start["versions"], **theirs.start["versions"]}
                    report["batches"][batch] = _measure(batch, turns, ours, theirs)
                print(json.dumps({f"batch {batch}": report["batches"][batch]}), file=sys.stderr, flush=True)
            if given.batch is None and turns.are_over:
                report.setdefault("left_out", []).append("mixed")
            elif given.batch is None:
                with _side("ours", folder, given.core) as ours:
                    report["mixed"] = _mixed(turns, ours)
    except FailedError as error:
        sys.exit(str(error))
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))
    parts = [*report["batches"].values(), report.get("mixed", {"same_tokens": True})]
    sys.exit(0 if all(part["same_tokens"] for part in parts) else 1)


@dataclass(frozen=True)
class Turns:
    """How many rounds a part has: `most`, but after the deadline (monotonic seconds) none but the first."""

    most: int
    deadline: float

    @property
    def are_over(self) -> bool:
        return time.monotonic() > self.deadline

    def __iter__(self) -> Iterator[int]:
        for number in range(self.most):
            if number and self.are_over:
                return
            yield number


def _side(name: str, folder: Path, core: int) -> Side:
    return Side(f"{name}_program.py", folder, core, CASES[0], PROGRAMS)


def _measure(batch: int, turns: Turns, ours: Side, theirs: Side) -> dict[str, Any]:
    """Give the figures of one batch size."""
    warm_up = ours.ask(f"answer_{batch}")
    theirs.ask(f"answer_{batch}")
    pairs = [(ours.ask(f"answer_{batch}"), theirs.ask(f"answer_{batch}")) for _ in turns]
    last = pairs[-1][0]["value"]
    found: dict[str, Any] = {
        "rounds": len(pairs),
        "same_tokens": all(a["value"]["tokens"] == b["value"]["tokens"] for a, b in pairs),
        "different_tokens": len({token for row in last["tokens"] for token in row}),
        "warm_up_s": round(warm_up["wall_s"] - min(a["wall_s"] for a, _ in pairs), 2),
        "cache": {key: last[key] for key in ("cache_bytes", "formula_bytes", "needed_bytes")},
    }
    for number, side in enumerate(("ours", "hf")):
        first = [pair[number]["value"]["first_s"] for pair in pairs]
        rate = [batch * (NEW_TOKENS - 1) / pair[number]["value"]["decode_s"] for pair in pairs]
        found[side] = {
            "first_s": _spread(first),
            "decode_tokens_per_s": _spread(rate),
            "cpu_part": round(min(pair[number]["cpu_s"] / pair[number]["wall_s"] for pair in pairs), 2),
            "peak_gib": max(pair[number]["peak_gib"] for pair in pairs),
        }
    values = [(a["value"], b["value"]) for a, b in pairs]
    found["times_hf"] = {
        "first_token": _spread([b["first_s"] / a["first_s"] for a, b in values]),
        "decode": _spread([b["decode_s"] / a["decode_s"] for a, b in values]),
        "whole_by_cpu_time": _spread([b["cpu_s"] / a["cpu_s"] for a, b in pairs]),
    }
    return found


def _mixed(turns: Turns, ours: Side) -> dict[str, Any]:
    """Compare continuous batching with one request at a time."""
    for slots in (8, 1):
        ours.ask(f"mixed_{slots}")
    pairs = [(ours.ask("mixed_8"), ours.ask("mixed_1")) for _ in turns]
    tokens = sum(len(row) for row in pairs[0][0]["value"]["tokens"])
    return {
        "rounds": len(pairs),
        "same_tokens": all(a["value"]["tokens"] == b["value"]["tokens"] for a, b in pairs),
        "new_tokens": tokens,
        "tokens_per_s": {
            "8 slots": _spread([tokens / a["wall_s"] for a, _ in pairs]),
            "one at a time": _spread([tokens / b["wall_s"] for _, b in pairs]),
        },
        "times_one_at_a_time": _spread([b["wall_s"] / a["wall_s"] for a, b in pairs]),
    }


def _spread(values: list[float]) -> list[float]:
    """Give median, least and most."""
    return [round(value, 3) for value in (statistics.median(values), min(values), max(values))]


if __name__ == "__main__":
    main()
