"""What assignments, export, declare and unset do to a script's variables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvl_core.migrate.script_facts import Variable
from qvl_core.migrate.shell_builtins import exports
from qvl_core.migrate.shell_state import State
from qvl_core.migrate.shell_text import GAP, Text, Word
from qvl_core.migrate.shell_words import Expansion


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """`name=value` in a command. `index` is what stands in brackets, `derived` says that the value uses the name."""

    name: str
    texts: list[Text]
    line: int
    append: bool
    index: str | None = None
    derived: bool = False
    items: bool = False


def countable(texts: list[Text]) -> list[Text] | None:
    """Give what may be counted as parameters or items; None where one may stand for several."""
    return None if any(text.many for text in texts) else texts


def assign(state: State, shell: Expansion, one: Assigned, *, exported: bool = False) -> None:
    """Set a variable, or the item of a list that `index` counts."""
    if one.index is None:
        state.assign(
            *(one.name, one.texts, one.line),
            exported=exported,
            append=one.append,
            derived=one.derived,
            items=one.items,
        )
        return
    held = state.script.variables.get(one.name)
    index = shell.calculated(one.index, one.line)
    items = list(held.texts) if held else []
    if index is None or not 0 <= index <= len(items) or one.append or countable(items) is None:
        state.lose(one.name, one.line, "has an item set that is not counted here")
        return
    items[index : index + 1] = one.texts or [Text()]
    state.assign(one.name, items, one.line, derived=True)


def declare(state: State, shell: Expansion, words: list[Word], assigned: list[Assigned]) -> None:
    """Do export, declare, typeset, local and readonly, with what they assign and what they only name."""
    exported = exports(words)
    flags = "".join(word.raw[1:] for word in words[1:] if word.raw.startswith("-"))
    named = [word.raw for word in words[1:] if re.fullmatch(r"[A-Za-z_]\w*", word.raw)]
    if words[0].raw in ("local", "declare", "typeset") and "g" not in flags:
        for name in (*(one.name for one in assigned), *named):
            state.make_local(name)
    for one in assigned:
        if set(flags) & set("iuln") and words[0].raw not in ("export", "readonly"):
            _typed(state, shell, one, flags, exported=exported)
        else:
            assign(state, shell, one, exported=exported)
    names = frozenset((*(one.name for one in assigned), *named))
    if "i" in flags and words[0].raw not in ("export", "readonly"):
        state.integers |= names
    if (words[0].raw == "readonly" or ("r" in flags and not state.locals)) and not state.guesses:
        state.fixed |= names
    for name in named if exported else ():
        if held := state.script.variables.get(name):
            on = "n" not in flags or words[0].raw != "export"
            state.script.variables[name] = Variable(texts=held.texts, line=held.line, exported=on)


def _typed(state: State, shell: Expansion, one: Assigned, flags: str, *, exported: bool) -> None:
    """Set what `declare -i` declares: its value is arithmetic; of -u, -l and -n it is unknown."""
    number = shell.calculated(one.texts[0].chars, one.line) if "i" in flags and len(one.texts) == 1 else None
    chars = GAP if number is None else str(number)
    assign(
        state,
        shell,
        Assigned(name=one.name, texts=[Text(chars, (one.line,) * len(chars))], line=one.line, append=False),
        exported=exported,
    )


def unset(state: State, shell: Expansion, names: list[str], line: int) -> None:
    """Take variables, items or functions away; under a condition that is not known their values hold."""
    for name in names:
        bare = name.partition("[")[0]
        if "-f" in names:
            state.functions.pop(name, None)
        elif bare in state.script.variables and bare != name and not state.guesses:
            _unset_item(state, shell, bare, name[len(bare) + 1 :].removesuffix("]"), line)
        elif bare in state.script.variables and state.guesses:
            state.note(line, f"{bare} is unset under a condition, which is not evaluated; its value holds")
        elif name in state.fixed:
            state.note(line, f"{name} is read-only and unset, which bash refuses; its value holds")
        else:
            state.script.variables.pop(name, None)
            state.integers -= {name}


def _unset_item(state: State, shell: Expansion, name: str, index: str, line: int) -> None:
    """Take the last item off a list; one before it leaves a hole, with which nothing is counted here."""
    items = list(state.script.variables[name].texts)
    number = None if index in ("@", "*") else shell.calculated(index, line)
    if number is not None and countable(items) is not None and len(items) > 1:
        if number in (len(items) - 1, -1):
            state.assign(name, items[:-1], line, derived=True)
            return
        if number >= len(items):
            return
    state.lose(name, line, "has an item unset")
