"""What has a script read on elsewhere: functions, eval, other shells and files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath

from qvl_core.migrate.script_facts import Variable
from qvl_core.migrate.shell_assignments import countable
from qvl_core.migrate.shell_cursor import Surroundings
from qvl_core.migrate.shell_state import Function, State
from qvl_core.migrate.shell_substitution import printed
from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text, Word
from qvl_core.migrate.shell_words import Expansion

_MOST_FILES = 16
_MOST_CALLS = 40
# A command inside `$(...)` that starts a program of the reference stack.
_STARTS_INSIDE = re.compile(r"(?:\A|[;&|(\n])\s*(?:\w+=\S*\s+)*(?:msrun|torchrun|python3?)\s[^;&|]*?_vlm\.py")


class Calls:
    """Reads on in other texts than the one that is read; what stands in one is the business of `Flow`."""

    def __init__(self, text: str, state: State, beside: Callable[[str], str | None]) -> None:
        self.state = state
        self._beside = beside
        self._inside: list[str] = []
        self._calls = 0
        self.around = Surroundings(
            lookup=state.lookup,
            assign=state.assign_text,
            note=state.note,
            substitute=self._substitute,
            work=state.work,
        )
        self.shell = Expansion(script=text.removeprefix("\ufeff"), around=self.around)

    def run(self) -> None:
        """Read on to the end of the text that is read."""
        raise NotImplementedError

    def run_function(self, function: Function) -> None:
        """Carry out a function's body."""
        raise NotImplementedError

    def _substitute(self, inner: str, line: int) -> Text | None:
        if self.state.skipping:
            return None
        if _STARTS_INSIDE.search(inner):
            self.state.note(line, "a program is started inside $(...): its command is not read")
        return printed(inner, line, self.around, self._counted)

    def _counted(self, name: str) -> str | None:
        text = self._beside(name)
        if text is not None and name not in self.state.script.counted:
            self.state.script.counted.append(name)
        return text

    def call(self, name: str, words: list[Word], arguments: list[Text], given: dict[str, Variable]) -> None:
        """Read a function's body on; what it is given and what is local in it is gone with it."""
        state = self.state
        line = words[0].line
        if self._calls >= _MOST_CALLS:
            state.note(line, f"{name} calls itself more often than is followed")
            return
        before = (state.parameters, state.are_the_scripts, state.locals)
        state.parameters, state.locals = countable(arguments), {}
        state.are_the_scripts &= [word.raw.strip('"') for word in words[1:]] == ["$@"]
        for variable, value in given.items():
            state.make_local(variable)
            state.script.variables[variable] = value
        self._calls += 1
        state.within.append(
            (line, f"the program is started by {name}, a function: its body is read as it is called here")
        )
        self.run_function(state.functions[name])
        state.within.pop()
        self._calls -= 1
        self.state.end("return")
        for variable, held in state.locals.items():
            if held is None:
                state.script.variables.pop(variable, None)
            else:
                state.script.variables[variable] = held
        state.parameters, state.are_the_scripts, state.locals = before

    def evaluate(self, texts: list[Text], line: int) -> None:
        """Read the text that eval is given as a part of the script; values keep the lines on which they are stated."""
        text = Text.joined([part for text in texts for part in (Text(" ", (line,)), text)][1:])
        if not text.chars.strip(" " + GAP):
            if text.chars.strip():
                self.state.note(line, "what eval runs is not known")
            return
        if not text.known:
            self.state.note(line, "a part of what eval runs is not known; the rest is read as it stands")
        self.state.within.append(
            (line, "the program is started by eval: the text that it is given is read as a command")
        )
        self._read_on(Expansion(script=text.chars, around=self.around, line=line, lines=text.lines))
        self.state.within.pop()

    def other_shell(self, texts: list[Text], line: int, given: Mapping[str, Variable]) -> bool:
        """Read `bash -c TEXT` and `bash FILE` on: a shell that has nothing but what is exported and `given`."""
        state = self.state
        words = texts
        while words and (words[0].chars == "--login" or re.fullmatch(r"-[euxli]+", words[0].chars)):
            words = words[1:]
        if not words:
            return False
        is_text = bool(re.fullmatch(r"-[euxli]*c", words[0].chars)) and len(words) > 1
        name = PurePath(words[0].chars).name
        content = None if is_text or GAP in name or words[0].chars.startswith("/") else self._beside(name)
        if not is_text and (content is None or name in self._inside):
            return False
        held, before = self.state.fork(), state.locals
        state.script.variables = {key: value for key, value in held.variables.items() if value.exported} | dict(given)
        state.functions, state.parameters, state.exports_all, state.locals = {}, countable(words[1:]), False, None
        state.are_the_scripts, state.integers, state.fixed = False, frozenset(), frozenset()
        shown = "a text" if is_text else name
        state.within.append((line, f"the program is started by another shell, which runs {shown}: it is read on in"))
        if is_text:
            state.parameters = countable(words[3:])
            text = words[1]
            self._read_on(Expansion(script=text.chars, around=self.around, line=line, lines=text.lines))
        else:
            self._read_file(name, content or "")
        state.within.pop()
        self.state.join(held)
        state.locals, state.status = before, None
        return True

    def source(self, words: list[Word]) -> None:
        """Read on in a file that lies beside the script; what is sourced from elsewhere is only noted."""
        script = self.state.script
        line = words[0].line
        path = words[1].fields[0].chars if len(words) > 1 and words[1].fields else ""
        name = PurePath(path).name
        beside = bool(path) and GAP not in name and not path.startswith("/")
        text = self._beside(name) if beside and name not in self._inside else None
        if text is None or len(script.sourced) >= _MOST_FILES:
            script.sources.append((line, " ".join(word.raw for word in words[1:])))
            return
        self._read_file(name, text)
        self.state.end("return")

    def _read_file(self, name: str, text: str) -> None:
        script = self.state.script
        if name not in script.sourced:
            script.sourced.append(name)
        number = script.sourced.index(name) + 1
        self._inside.append(name)
        self._read_on(
            Expansion(script=text.removeprefix("\ufeff"), around=self.around, line=number * LINES_OF_A_FILE + 1)
        )
        self._inside.pop()

    def _read_on(self, shell: Expansion) -> None:
        if self._calls >= _MOST_CALLS:
            self.state.note(shell.line, "eval inside eval is not followed any deeper")
            return
        self._calls += 1
        before, self.shell = self.shell, shell
        self.run()
        self.spend(len(shell.script))
        self.shell = before
        self._calls -= 1

    def spend(self, count: int) -> None:
        """Count what functions, eval and files had read; where they call each other without end, reading ends."""
        state = self.state
        if state.spend(count) and not state.skipping:
            state.note(self.shell.line, "functions and eval go on longer than is read: nothing behind this is known")
            state.leaving = "exit"
