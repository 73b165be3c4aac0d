"""Which variables a shell's builtins set: `read`, `let`, `printf -v`, `mapfile`, `eval`, and arithmetic commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from qvl_core.migrate.shell_text import Word

DECLARING = ("export", "declare", "typeset", "local", "readonly")
_NAME = re.compile(r"[A-Za-z_]\w*")
_SET = re.compile(r"([A-Za-z_]\w*)\s*(?:\+\+|--|(?:[-+*/%&|^]|<<|>>)?=(?!=))|(?:\+\+|--)\s*([A-Za-z_]\w*)")
_IN_EVAL = re.compile(r"(?:^|[\s;])([A-Za-z_]\w*)\+?=")
# Options whose next word is no name.
_WITH_VALUE = {"read": "ptnNdui", "mapfile": "dnOsuCc", "readarray": "dnOsuCc"}


def names_set(words: Sequence[Word]) -> list[str]:
    """Give the variables that a command sets by itself, with values that only running it would tell."""
    first = words[0].raw
    texts = [text.chars for word in words[1:] for text in word.fields]
    if first == "let":
        return names_in_arithmetic(" ".join(texts))
    if first == "eval":
        return list(dict.fromkeys(_IN_EVAL.findall(" ".join(texts))))
    if first == "printf":
        return [name for flag, name in pairwise(texts) if flag == "-v" and _NAME.fullmatch(name)]
    if first not in _WITH_VALUE:
        return []
    before = ["", *texts]
    return [
        text
        for flag, text in pairwise(before)
        if _NAME.fullmatch(text) and not (flag.startswith("-") and flag[-1] in _WITH_VALUE[first])
    ]


def names_in_arithmetic(text: str) -> list[str]:
    """Give the variables that an arithmetic command sets: X=1, X+=1, X++, --X."""
    return list(dict.fromkeys(found[1] or found[2] for found in _SET.finditer(text)))
