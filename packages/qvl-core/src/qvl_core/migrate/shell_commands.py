"""What one simple command does to a script's variables; nothing is run."""

from __future__ import annotations

import re
from pathlib import PurePath

from qvl_core.migrate.script_facts import Variable
from qvl_core.migrate.shell_assignments import Assigned, assign, declare, unset
from qvl_core.migrate.shell_builtins import DECLARING, assigned_by_env, names_in_arithmetic, names_set
from qvl_core.migrate.shell_calls import Calls
from qvl_core.migrate.shell_conditions import Token, holds
from qvl_core.migrate.shell_options import REMOTE, SHELLS, behind_wrappers, started
from qvl_core.migrate.shell_state import Start
from qvl_core.migrate.shell_text import Text, Word

_STARTS = re.compile(r"\b(?:msrun|torchrun)\b|_vlm\.py")


def _blank_around_sign(words: list[Word], assigned: list[Assigned]) -> str:
    """Give what was probably meant to be an assignment: `TP = 2`, `TP =2`, `TP= 2`, `export TP = 2`."""
    raw = [word.raw for word in words]
    rest = raw[1:] if raw and raw[0] in DECLARING else raw
    if len(rest) > 1 and rest[1][:1] == "=" and rest[1][:2] != "==" and re.fullmatch(r"[A-Za-z_]\w*", rest[0]):
        return " ".join(raw)[:80]
    if rest and assigned and not "".join(text.chars for text in assigned[-1].texts) and rest[0].isdecimal():
        return f"{assigned[-1].name}= {rest[0]}"
    return ""


def _starts_any(texts: list[Text]) -> bool:
    return any(_STARTS.search(text.chars) for text in texts)


class Commands(Calls):
    """Carries out simple commands on a State; the order of commands is the business of `Flow`."""

    # Set where a loop may have been left, under a condition that is not known.
    maybe_left = False

    def carry_out(self, words: list[Word], assigned: list[Assigned], *, piped: bool) -> None:
        """Do what a command does. One of a pipeline runs in a shell of its own: what it sets is gone with it."""
        state = self.state
        if state.skipping:
            return
        texts = [text for word in words for text in word.fields]
        first = texts[0].chars if texts else ""
        raw = words[0].raw if words else ""
        if blank := _blank_around_sign(words, assigned):
            state.note(words[0].line, f"{blank}: with a blank beside = bash sets nothing")
        if raw in DECLARING:
            declare(state, self.shell, words, assigned)
            state.status = True
            return
        if not texts:
            if not piped:
                for one in assigned:
                    assign(state, self.shell, one)
            known = all(text.known for one in assigned for text in one.texts)
            state.status = True if known and not words else None
            return
        given = {one.name: Variable(texts=tuple(one.texts), line=one.line, exported=True) for one in assigned}
        state.status = None
        held = state.fork() if piped else None
        if first in state.functions:
            self.call(first, words, texts[1:], given)
        elif not self._builtin(first, words, texts, given):
            self._external(first, words, texts, given)
        if held is not None:
            state.join(held)

    def _builtin(self, first: str, words: list[Word], texts: list[Text], given: dict[str, Variable]) -> bool:
        """Do what a builtin does; tell whether it was one."""
        state = self.state
        line = words[0].line
        if first in ("source", "."):
            self.source(words)
        elif first == "set":
            self._set(texts[1:])
        elif first == "shift":
            count = int(texts[1].chars) if len(texts) > 1 and texts[1].chars.isdecimal() else 1
            state.parameters = None if state.parameters is None or state.guesses else state.parameters[count:]
        elif first == "unset":
            unset(state, self.shell, [text.chars for text in texts[1:]], line)
        elif first == "eval":
            self.evaluate(texts[1:], line)
        elif first in ("exit", "return", "break", "continue"):
            self._leave(first, texts)
        elif first in (":", "true"):
            state.status = True
        elif first == "false":
            state.status = False
        elif first in ("[", "test"):
            inside = texts[1:-1] if first == "[" and texts[-1].chars == "]" else texts[1:]
            state.status = holds([Token(text=text.chars) for text in inside], self.shell.number_of)
        elif first == "let":
            for text in texts[1:]:
                self.arithmetic(text.chars, line, "let")
        elif first in ("cd", "pushd"):
            state.folder = (line, " ".join(word.raw for word in words))
        elif PurePath(first).name in SHELLS and len(texts) > 1:
            return self.other_shell(texts[1:], line, given)
        else:
            return False
        return True

    def _external(self, first: str, words: list[Word], texts: list[Text], given: dict[str, Variable]) -> None:
        state = self.state
        line = words[0].line
        for name in names_set(words):
            state.lose(name, line, f"is set by {first}, which is not executed")
        wrapped = behind_wrappers(texts)
        if wrapped and wrapped[0] is not texts[0] and PurePath(wrapped[0].chars).name in SHELLS:
            by_env = {name: Variable(texts=(text,), line=line, exported=True) for name, text in assigned_by_env(words)}
            if self.other_shell(wrapped[1:], line, given | by_env):
                if first == "exec" and not state.guesses:
                    state.leaving = "exit"
                return
        if first == "exec" and len(texts) > 1 and not state.guesses:
            state.starts.append(self._start(texts, given))
            state.leaving = "exit"
            return
        if started(texts):
            for name, text in assigned_by_env(words):
                given[name] = Variable(texts=(text,), line=line, exported=True)
        elif wrapped and PurePath(wrapped[0].chars).name in REMOTE and _starts_any(wrapped[1:]):
            state.note(line, f"what {wrapped[0].chars} starts is not read")
        elif first.endswith(".sh") and self.other_shell(texts, line, given):
            return
        state.starts.append(self._start(texts, given))

    def _start(self, texts: list[Text], given: dict[str, Variable]) -> Start:
        script = self.state.script
        starts = bool(started(texts))
        for line, remark in self.state.within if starts else ():
            self.state.note(line, remark)
        return Start(
            words=texts,
            given=given if starts else {},
            variables=dict(script.variables) if starts else {},
            repeated=len(script.repeated),
            noted=len(script.notes),
            folder=self.state.folder,
        )

    def arithmetic(self, expression: str, line: int, setter: str) -> None:
        """Do `((...))` or `let`; what it sets is unknown where its value is."""
        state = self.state
        names = names_in_arithmetic(expression)
        number = None if state.guesses and names else self.shell.calculated(expression, line)
        state.status = None if number is None else number != 0
        for name in names if number is None else ():
            state.lose(name, line, f"is set by {setter} with what is not known")

    def _set(self, texts: list[Text]) -> None:
        flags = [text.chars for text in texts]
        if "--" in flags:
            unsure = self.state.guesses or any(not text.known for text in texts)
            self.state.parameters = None if unsure else texts[flags.index("--") + 1 :]
            self.state.are_the_scripts = False
        if "-a" in flags or "allexport" in flags:
            self.state.exports_all = "+o" not in flags
        elif "+a" in flags:
            self.state.exports_all = False

    def _leave(self, first: str, texts: list[Text]) -> None:
        """Leave a loop, a function or the script; under a condition that is not known, the script goes on."""
        state = self.state
        if state.guesses:
            self.maybe_left = self.maybe_left or first == "break"
            return
        count = texts[1].chars if len(texts) > 1 else "1"
        state.leaving = first
        state.levels = int(count) if count.isdecimal() else 1
