"""Counters of the server in Prometheus' text format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ANSWER_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Durations in seconds, in buckets of these upper bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count one, or several of that length each."""
        self._counts[bisect_left(self._bounds, seconds)] += count
        self._sum += seconds * count

    def lines(self, name: str, text: str) -> list[str]:
        """Give the lines of the format."""
        lines = [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """All counts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._responses: Counter[int] = Counter()
        self._finishes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._first_token = Histogram(_ANSWER_S)
        self._next_token = Histogram(_TOKEN_S)
        self._request = Histogram(_ANSWER_S)

    def response(self, status: int) -> None:
        """Count a response of any route."""
        with self._lock:
            self._responses[status] += 1

    def first_token(self, seconds: float) -> None:
        """Count the time from a request's arrival to its first new token."""
        with self._lock:
            self._first_token.add(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        """Count that an answer's next so many tokens took that long together."""
        with self._lock:
            self._next_token.add(seconds / count, count)

    def answer(self, finish: str, *, seconds: float, prompt_tokens: int, new_tokens: int) -> None:
        """Count an answer that has ended: stop, length, cancelled (the client is gone) or failed."""
        with self._lock:
            self._finishes[finish] += 1
            self._tokens.update(prompt=prompt_tokens, completion=new_tokens)
            self._request.add(seconds)

    def render(self, gauges: Mapping[str, tuple[float, str]]) -> str:
        """Give the text; `gauges` are further values with their help texts, by name."""
        with self._lock:
            lines = [
                *_counter("qvl_http_responses_total", "Responses by status.", "status", self._responses),
                *_counter("qvl_answers_total", "Answers by how they ended.", "finish", self._finishes),
                *_counter("qvl_tokens_total", "Tokens of prompts and answers.", "kind", self._tokens),
                *self._first_token.lines("qvl_first_token_seconds", "Time to the first token."),
                *self._next_token.lines("qvl_token_seconds", "Time from one token of an answer to the next."),
                *self._request.lines("qvl_answer_seconds", "Time to the end of an answer."),
            ]
        for name, (value, text) in gauges.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value!r}"]
        return "\n".join(lines) + "\n"


def _counter(name: str, text: str, label: str, counts: Mapping[int, int] | Mapping[str, int]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} counter"]
    return lines + [f'{name}{{{label}="{key}"}} {count}' for key, count in sorted(counts.items())]
