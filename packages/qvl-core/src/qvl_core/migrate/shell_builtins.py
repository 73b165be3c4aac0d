"""What commands do to variables: exports, `env X=1`, `read`, `let`, `printf -v`, `mapfile`, `eval`, arithmetic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from qvl_core.migrate.shell_text import Text, Word

DECLARING = ("export", "declare", "typeset", "local", "readonly")
_NAME = re.compile(r"[A-Za-z_]\w*")
_SET = re.compile(r"([A-Za-z_]\w*)\s*(?:\+\+|--|(?:[-+*/%&|^]|<<|>>)?=(?!=))|(?:\+\+|--)\s*([A-Za-z_]\w*)")
_IN_EVAL = re.compile(r"(?:^|[\s;])([A-Za-z_]\w*)\+?=")
# Options whose next word is no name.
_WITH_VALUE = {"read": "ptnNdui", "mapfile": "dnOsuCc", "readarray": "dnOsuCc"}


def exports(words: Sequence[Word]) -> bool:
    """Tell whether a command gives the program what it assigns: export, declare -x, and X=1 in front of a command."""
    first = words[0].raw if words else ""
    if first in ("declare", "typeset", "local", "readonly"):
        return any(re.fullmatch(r"-\w*x\w*", word.raw) for word in words[1:])
    return bool(words)


def assigned_by_env(words: Sequence[Word]) -> list[tuple[str, Text]]:
    """Give what `env X=1 Y=2 program ...` sets for the program, also behind nohup, sudo and the like."""
    texts = [text for word in words for text in word.fields]
    start = next((at for at, text in enumerate(texts) if re.fullmatch(r"(?:\S*/)?env", text.chars)), None)
    found: list[tuple[str, Text]] = []
    for text in texts[start + 1 :] if start is not None else ():
        if match := re.match(r"([A-Za-z_]\w*)=", text.chars):
            found.append((match[1], Text(text.chars[match.end() :], text.lines[match.end() :])))
        elif found or not text.chars.startswith("-"):
            break
    return found


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
