"""Sort what the readers say of a record into kinds, by its wording.

Tests feed wrong records through the readers themselves, so that a changed wording cannot leave its kind unnoticed.
"""

from __future__ import annotations

import re

from qvl_core.errors import Problem

from qvl_data.records.problem_list import Kind

_ROLE = r"message \d+ is of the |no answer to learn|in a row|only an assistant calls|and its role is"
# The first whose words are found is the kind; what has none of them is no record of its format.
_WORDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("region", re.compile(r"`objects|\bregion \d|\bof `?bbox")),
    ("placeholder", re.compile(r"marker\(s\) in the text|> in a message of the")),
    ("empty", re.compile(r"the answer is empty|message is empty|prompt is empty")),
    ("role", re.compile(_ROLE + r"|^`[^`]*\[\d+\]` has `(?!type`)[^`]*` .*; known are")),
)


def record_kind(problem: Problem) -> Kind:
    """Name the kind of a problem that a reader of records gave."""
    return next((kind for kind, words in _WORDS if words.search(problem.message)), "record")
