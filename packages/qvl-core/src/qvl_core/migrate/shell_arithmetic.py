"""Integer arithmetic of the shell: enough for device counts and batches. Runs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

_TOKEN = re.compile(r"\s*(?:(\d{1,18})|([A-Za-z_]\w*)|(\*\*|[-+*/%()]))")


def calculate(expression: str, number_of: Callable[[str], int | None]) -> int | None:
    """Give the value of integer arithmetic with + - * / % and brackets; None where it is more than that or unknown."""
    tokens: list[str] = []
    at = 0
    expression = expression.rstrip()
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None or match[3] == "**":
            return None
        number = int(match[1]) if match[1] else number_of(match[2]) if match[2] else None
        if match[2] and number is None:
            return None
        tokens.append(match[3] or str(number))
        at = match.end()
    try:
        value, rest = _sum(tokens)
    except (ZeroDivisionError, IndexError, ValueError, RecursionError):
        return None
    return None if rest else value


def _sum(tokens: list[str]) -> tuple[int, list[str]]:
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens[0] == "+" else -1
        other, tokens = _product(tokens[1:])
        value += sign * other
    return value, tokens


def _product(tokens: list[str]) -> tuple[int, list[str]]:
    value, tokens = _factor(tokens)
    while tokens and tokens[0] in "*/%":
        operator = tokens[0]
        other, tokens = _factor(tokens[1:])
        if operator == "*":
            value *= other
        else:
            # The shell rounds towards zero.
            quotient = abs(value) // abs(other) * (1 if (value < 0) == (other < 0) else -1)
            value = quotient if operator == "/" else value - quotient * other
    return value, tokens


def _factor(tokens: list[str]) -> tuple[int, list[str]]:
    head = tokens[0]
    if head in "+-":
        value, rest = _factor(tokens[1:])
        return (-value if head == "-" else value), rest
    if head == "(":
        value, rest = _sum(tokens[1:])
        if rest[0] != ")":
            raise ValueError
        return value, rest[1:]
    return int(head), tokens[1:]
