"""What a run's profiles say: operations by the time that they took, summed from the traces of the processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import InputError, OutputError, Problem
from qvl_core.input_file import printable, read_regular_file
from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card, table

from qvl_train.profiling import PROFILE, TRACE
from qvl_train.report.numbers import seconds_text
from qvl_train.report.run_history import RunHistory

_MOST_OPERATIONS = 15
_MOST_TRACES = 4
_MOST_TRACKS = 6
# Spans that hold all that was called in them: counted with it, everything would count twice.
_SPANS = ("Scope Layer",)
# A larger trace is for a viewer of traces, not for a table.
_MOST_BYTES = 64 * 1024**2
# Some thirty years.
_LONGEST_US = 1e15


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Calls of one operation, and their time in seconds; `track` is what did them, such as the host or a device."""

    track: str
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
    if is_alone:
        return card("Profile", *parts, id="profile")
    # Beside other runs it is one thing among many.
    return card(f"Profile of {run.name}", element("details", element("summary", "operations by time"), *parts))


def read_operations(path: Path) -> list[Operation]:
    """Sum up a trace by operation, the longest first. Raises OutputError for a file that is no trace, or too large."""
    data = read_regular_file(path, limit=_MOST_BYTES, error_type=OutputError)
    try:
        events = json.loads(data)
        # Also an object, as the format has both.
        events = events["traceEvents"] if isinstance(events, dict) else events
        tracks = dict(_tracks(events))
        sums: dict[tuple[str, str], tuple[int, float]] = {}
        for event in events:
            track = tracks.get(str(event.get("pid")), "")
            if event.get("ph") == "X" and track not in _SPANS:
                key = track, str(event["name"])
                calls, seconds = sums.get(key, (0, 0.0))
                sums[key] = calls + 1, seconds + _microseconds(event["dur"]) / 1e6
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
        message = "is not whole, or is no trace"
        raise OutputError(Problem(where=printable(str(path)), message=message)) from None
    found = [
        Operation(track=track, name=name, calls=calls, seconds=seconds)
        for (track, name), (calls, seconds) in sums.items()
    ]
    return sorted(found, key=lambda one: -one.seconds)


def _microseconds(value: Any) -> float:
    """Give a time, which is text or a number. Raises ValueError for one that no operation takes."""
    found = float(value)
    if not abs(found) <= _LONGEST_US:
        raise ValueError
    return found


def _tracks(events: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Give what stands in a trace for whose operations they are: (number, name) of each `process_name`."""
    for event in events:
        if event.get("ph") == "M" and event.get("name") == "process_name":
            named = event.get("args")
            yield str(event.get("pid")), str(named.get("name", "")) if isinstance(named, dict) else ""


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
    tracks = list(dict.fromkeys(one.track for one in found))
    for track in tracks[:_MOST_TRACKS]:
        yield from _track(track, [one for one in found if one.track == track])
    if len(tracks) > _MOST_TRACKS:
        yield element("p", f"{len(tracks) - _MOST_TRACKS:,} more tracks are in the trace.", class_="soft small")


def _track(name: str, found: Sequence[Operation]) -> Iterator[Html]:
    whole = sum(one.seconds for one in found)
    rows = [
        (one.name, f"{one.calls:,}", seconds_text(one.seconds), f"{100 * one.seconds / max(1e-12, whole):.1f} %")
        for one in found[:_MOST_OPERATIONS]
    ]
    yield table((name or "operation", "calls", "time", "share"), rows, right=("calls", "time", "share"))
    rest = len(found) - _MOST_OPERATIONS
    if rest > 0:
        yield element("p", f"{rest:,} more operations are in the trace.", class_="soft small")
