"""Sort problems into kinds that a reader can count: 4,000 missing files are one line of a report, not 4,000.

A problem's message is what the code that found it says to people; it is sorted by its wording, and tests feed real
broken input through the readers so that a changed wording cannot leave its kind unnoticed. What fits none is `other`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvl_core.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of problem: the name in JSON, the title for people, and the words of the messages that belong to it."""

    name: str
    title: str
    words: re.Pattern[str]


def _kind(name: str, title: str, words: str) -> Kind:
    return Kind(name=name, title=title, words=re.compile(words, re.IGNORECASE))


# The first kind whose words are found is a problem's kind. The order is also that of the reports.
KINDS: tuple[Kind, ...] = (
    _kind("aspect_ratio", "Sizes that the model cannot take", r"aspect ratio|is no multiple"),
    _kind("too_long", "Longer than sequence_length", r"the limit is [\d,]+|longer than [\d,]+ tokens"),
    _kind("duplicate", "Duplicate records", r"^same messages and media as"),
    _kind(
        "refused_path",
        "Refused paths",
        r"media_root|\ba URL\b|drive letter|`\.\.` part|NUL character|none of them is expanded|cannot be resolved",
    ),
    _kind("missing_media", "Missing media", r"there is no such file\b"),
    _kind(
        "placeholders", "Placeholders and media that do not match", r"marker\(s\)|markers? in the text|> in a message"
    ),
    _kind("boxes", "Boxes and points", r"\b(?:box|point|region)(?:es|s)?\b|`objects`"),
    _kind("empty_answer", "Empty answers", r"the answer is empty"),
    _kind("empty_message", "Empty messages", r"(?:message|prompt) is empty"),
    _kind(
        "roles",
        "Wrong roles, or roles in the wrong order",
        r"; known are|expected one of|no answer to learn|is of the (?:user|assistant|system|tool)",
    ),
    _kind(
        "unreadable",
        "Records that cannot be read: JSON, Parquet, encoding",
        r"not JSON|not UTF-8|UTF-16|nested too deeply|neither a JSON array|top level|Parquet|0 records|surrogate"
        r"|only white space|text after the end|expected a comma|twice|its last line|truncated",
    ),
    _kind(
        "corrupt_media",
        "Corrupt or unsupported media",
        r"cannot be decoded|cannot be opened|is not a [A-Z]{3,4}|pixels|0 bytes|not a regular file|video|frame|decod"
        r"|was changed after|is larger than",
    ),
    _kind(
        "columns",
        "Missing or wrong columns",
        r"is missing|Keys found|not an object|not a string|expected a|not a list|\bhas `",
    ),
    _kind("template", "Refused by the chat template", r"chat template"),
    _kind("recipe", "The recipe", r"(?!)"),
    _kind("other", "Other problems", r""),
)
# Sections of a recipe, with which the keys of its own problems start.
_SECTIONS = frozenset(
    [
        "schema",
        "task",
        "extends",
        "model",
        "layout",
        "weights",
        "data",
        "train",
        "generation",
        "eval",
        "env",
        "launch",
        "output",
        "expected",
    ]
)
TITLES = {kind.name: kind.title for kind in KINDS}


def kind_of(problem: Problem) -> str:
    """Name the kind of a problem, the `name` of one of KINDS."""
    if problem.key.partition(".")[0] in _SECTIONS:
        # Of the recipe itself, unless it says which samples are too long.
        return "too_long" if problem.key == "data.sequence_length" and ":" in problem.where else "recipe"
    return next(kind.name for kind in KINDS if kind.words.search(problem.message))
