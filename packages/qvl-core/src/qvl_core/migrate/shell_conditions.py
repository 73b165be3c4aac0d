"""What `[ ... ]`, `test` and `[[ ... ]]` say, where it can be told without looking at files or running anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qvl_core.migrate.shell_arithmetic import calculate
from qvl_core.migrate.shell_globs import Work, matches
from qvl_core.migrate.shell_text import GAP

_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda left, right: left == right,
    "-ne": lambda left, right: left != right,
    "-lt": lambda left, right: left < right,
    "-le": lambda left, right: left <= right,
    "-gt": lambda left, right: left > right,
    "-ge": lambda left, right: left >= right,
}
_EQUAL = ("=", "==", "!=")
_UNARY = re.compile(r"-[a-zA-Z]")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A word of a condition after expansion. `operator` is set for (, ), && and || of `[[`; `quoted` for any quote."""

    text: str
    operator: bool = False
    quoted: bool = False


def holds(
    tokens: Sequence[Token],
    number_of: Callable[[str], int | None],
    *,
    double: bool = False,
    work: Work | None = None,
) -> bool | None:
    """Tell whether a condition holds; None where that cannot be known. `double` is for `[[`, `work` for patterns."""
    work = work or Work()
    if double:
        return _DoubleCondition(tokens, number_of, work).whole()
    negated = len(tokens) > 1 and tokens[0].text == "!"
    rest = tokens[1:] if negated else tokens
    return _inverted(_single(rest, number_of), negated)


def _inverted(value: bool | None, negated: bool) -> bool | None:
    return value if value is None or not negated else not value


def _single(
    tokens: Sequence[Token], number_of: Callable[[str], int | None], patterns: Work | None = None
) -> bool | None:
    """Judge one condition of at most three words; one of `[[`, which knows patterns, where there is work for them."""
    double = patterns is not None
    texts = [token.text for token in tokens]
    if not texts:
        return False
    if len(texts) == 1:
        return None if GAP in texts[0] else bool(texts[0])
    if len(texts) == 2:
        if GAP in texts[1]:
            # A gap with something beside it may be empty or not only where it is all there is.
            known = bool(texts[1].replace(GAP, ""))
            return _inverted(known or None, texts[0] == "-z") if texts[0] in ("-n", "-z") else None
        return {"-n": bool(texts[1]), "-z": not texts[1], "!": not texts[1]}.get(texts[0])
    if len(texts) != 3:
        return None
    left, sign, right = texts
    if GAP in left or GAP in right:
        return None
    if sign in _EQUAL:
        return _equal(left, sign, right, None if tokens[2].quoted else patterns)
    if sign not in _COMPARED:
        return None
    numbers = [_number(text, number_of, double=double) for text in (left, right)]
    return None if None in numbers else _COMPARED[sign](*numbers)  # type: ignore[arg-type]


def _equal(left: str, sign: str, right: str, patterns: Work | None) -> bool | None:
    if patterns is None or not re.search(r"[*?\[]", right):
        return (left == right) == (sign != "!=")
    found = matches(right, left, patterns)
    return None if found is None else found == (sign != "!=")


def _number(text: str, number_of: Callable[[str], int | None], *, double: bool) -> int | None:
    if double:
        return calculate(text, number_of)
    return int(text) if re.fullmatch(r"\s*[-+]?\d{1,18}\s*", text) else None


class _DoubleCondition:
    """`[[ a && ( b || ! c ) ]]`."""

    def __init__(self, tokens: Sequence[Token], number_of: Callable[[str], int | None], work: Work) -> None:
        self._tokens = list(tokens)
        self._work = work
        self._at = 0
        self._number_of = number_of

    def whole(self) -> bool | None:
        try:
            value = self._any()
        except (IndexError, RecursionError):
            return None
        return value if self._at == len(self._tokens) else None

    def _is(self, text: str) -> bool:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token is not None and token.operator and token.text == text

    def _any(self) -> bool | None:
        values = [self._all()]
        while self._is("||"):
            self._at += 1
            values.append(self._all())
        return True if True in values else None if None in values else False

    def _all(self) -> bool | None:
        values = [self._one()]
        while self._is("&&"):
            self._at += 1
            values.append(self._one())
        return False if False in values else None if None in values else True

    def _one(self) -> bool | None:
        token = self._tokens[self._at]
        if token.text == "!" and not token.quoted:
            self._at += 1
            return _inverted(self._one(), negated=True)
        if self._is("("):
            self._at += 1
            value = self._any()
            self._at += 1
            return value
        start = self._at
        while self._at < len(self._tokens) and not self._tokens[self._at].operator:
            self._at += 1
        if start == self._at:
            raise IndexError
        return _single(self._tokens[start : self._at], self._number_of, self._work)
