"""What a run's profiles say: operations by the time that they took, summed from the traces of the processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qvl_core.errors import InputError, OutputError
from qvl_core.input_file import read_regular_file
from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card, table

from qvl_train.profiling import PROFILE, TRACE
from qvl_train.report.numbers import seconds_text
from qvl_train.report.run_history import RunHistory

_MOST_OPERATIONS = 20
_MOST_TRACES = 4
# A larger trace is for a viewer of traces, not for a table.
_MOST_BYTES = 64 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Calls of one operation, and their time in seconds."""

    name: str
    calls: int
    seconds: float


def profile_card(run: RunHistory, *, is_alone: bool) -> Html | None:
    """Give a table of operations for each profiled process; None where the run has no profile."""
    traces = sorted((run.folder / PROFILE).glob(f"*/**/{TRACE}"))
    if not traces:
        return None
    parts: list[Html] = []
    for trace in traces[:_MOST_TRACES]:
        parts += _trace(run, trace)
    if len(traces) > _MOST_TRACES:
        parts.append(
            element("p", f"{len(traces) - _MOST_TRACES:,} more traces are in {PROFILE}/.", class_="soft small")
        )
    title = "Profile" if is_alone else f"Profile of {run.name}"
    return card(title, *parts, id="profile" if is_alone else None)


def read_operations(path: Path) -> list[Operation]:
    """Sum up a trace by operation, the longest first. Raises OutputError for a file that is no trace, or too large."""
    data = read_regular_file(path, limit=_MOST_BYTES, error_type=OutputError)
    try:
        events = json.loads(data)
        # Also an object, as the format has both.
        events = events["traceEvents"] if isinstance(events, dict) else events
        sums: dict[str, tuple[int, float]] = {}
        for event in events:
            if event.get("ph") == "X":
                calls, seconds = sums.get(event["name"], (0, 0.0))
                # Microseconds, as text or as a number.
                sums[event["name"]] = (calls + 1, seconds + float(event["dur"]) / 1e6)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    found = [Operation(name=str(name), calls=calls, seconds=seconds) for name, (calls, seconds) in sums.items()]
    return sorted(found, key=lambda one: -one.seconds)


def _trace(run: RunHistory, path: Path) -> Iterator[Html]:
    place = path.relative_to(run.folder)
    yield element("h3", place.parts[1].replace("_", " "))
    yield element("p", f"{place}; opens in MindStudio Insight and in Perfetto.", class_="soft small")
    try:
        found = read_operations(path)
    except InputError as error:
        yield element("p", error.problems[0].message, class_="soft small")
        return
    if not found:
        yield element("p", "No operation is in this trace.", class_="soft small")
        return
    whole = sum(one.seconds for one in found)
    rows = [
        (one.name, f"{one.calls:,}", seconds_text(one.seconds), f"{100 * one.seconds / max(1e-12, whole):.1f} %")
        for one in found[:_MOST_OPERATIONS]
    ]
    yield table(("operation", "calls", "time", "share"), rows, right=("calls", "time", "share"))
    rest = len(found) - _MOST_OPERATIONS
    if rest > 0:
        yield element("p", f"{rest:,} more operations are in the trace.", class_="soft small")
