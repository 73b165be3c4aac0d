"""What one simple command does to a script's variables; nothing is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from qvl_core.migrate.script_facts import Variable
from qvl_core.migrate.shell_builtins import DECLARING, assigned_by_env, exports, names_in_arithmetic, names_set
from qvl_core.migrate.shell_conditions import Token, holds
from qvl_core.migrate.shell_cursor import Surroundings
from qvl_core.migrate.shell_options import started
from qvl_core.migrate.shell_state import Function, Start, State
from qvl_core.migrate.shell_substitution import printed
from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text, Word
from qvl_core.migrate.shell_words import Expansion

_MOST_FILES = 16
_MOST_CALLS = 40
_SHELLS = ("bash", "sh", "/bin/bash", "/bin/sh", "/usr/bin/bash")
_REMOTE = ("ssh", "pdsh", "ansible", "docker", "kubectl", "sbatch", "screen", "tmux", "at", "xargs", "parallel")
_STARTS = re.compile(r"\b(?:msrun|torchrun)\b|_vlm\.py")


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


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a subshell leaves as it was."""

    variables: dict[str, Variable]
    functions: dict[str, Function]
    parameters: list[Text] | None
    exports_all: bool
    folder: tuple[int, str] | None
    integers: frozenset[str]
    fixed: frozenset[str]


def _countable(texts: list[Text]) -> list[Text] | None:
    """Give what may be counted as parameters or items; None where one may stand for several."""
    return None if any(text.many for text in texts) else texts


class Commands:
    """Carries out simple commands on a State; the order of commands is the business of `Flow`."""

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
        return None if self.state.skipping else printed(inner, line, self.around, self._counted)

    def _counted(self, name: str) -> str | None:
        text = self._beside(name)
        if text is not None and name not in self.state.script.counted:
            self.state.script.counted.append(name)
        return text

    def carry_out(self, words: list[Word], assigned: list[Assigned], *, piped: bool) -> None:
        """Do what a command does. One of a pipeline runs in a shell of its own: what it sets is gone with it."""
        state = self.state
        if state.skipping:
            return
        texts = [text for word in words for text in word.fields]
        first = texts[0].chars if texts else ""
        raw = words[0].raw if words else ""
        if raw in DECLARING:
            self._declare(words, assigned)
            state.status = True
            return
        if not texts:
            if not piped:
                for one in assigned:
                    self._assign(one)
            known = all(text.known for one in assigned for text in one.texts)
            state.status = True if known and not words else None
            return
        given = {one.name: Variable(texts=tuple(one.texts), line=one.line, exported=True) for one in assigned}
        state.status = None
        line = words[0].line
        held = self.fork() if piped else None
        if first in state.functions:
            self._call(first, _countable(texts[1:]), line, given)
        elif not self._builtin(first, words, texts, line):
            self._external(first, words, texts, given)
        if held is not None:
            self.join(held)

    def fork(self) -> Held:
        """Give what a subshell does not change."""
        state = self.state
        return Held(
            variables=dict(state.script.variables),
            functions=dict(state.functions),
            parameters=state.parameters,
            exports_all=state.exports_all,
            folder=state.folder,
            integers=state.integers,
            fixed=state.fixed,
        )

    def join(self, held: Held) -> None:
        """Leave a subshell: what it set is gone, what it started stays."""
        state = self.state
        state.script.variables, state.functions = held.variables, held.functions
        state.parameters, state.exports_all, state.folder = held.parameters, held.exports_all, held.folder
        state.integers, state.fixed = held.integers, held.fixed
        self._end("exit", "break", "continue", "return")

    def _assign(self, one: Assigned, *, exported: bool = False) -> None:
        state = self.state
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
        index = self.shell.calculated(one.index, one.line)
        items = list(held.texts) if held else []
        if index is None or not 0 <= index <= len(items) or one.append or _countable(items) is None:
            state.lose(one.name, one.line, "has an item set that is not counted here")
            return
        items[index : index + 1] = one.texts or [Text()]
        state.assign(one.name, items, one.line, derived=True)

    def _declare(self, words: list[Word], assigned: list[Assigned]) -> None:
        state = self.state
        exported = exports(words)
        flags = "".join(word.raw[1:] for word in words[1:] if word.raw.startswith("-"))
        named = [word.raw for word in words[1:] if re.fullmatch(r"[A-Za-z_]\w*", word.raw)]
        if words[0].raw in ("local", "declare", "typeset") and "g" not in flags:
            for name in (*(one.name for one in assigned), *named):
                state.make_local(name)
        for one in assigned:
            if set(flags) & set("iuln") and words[0].raw not in ("export", "readonly"):
                self._typed(one, flags, exported=exported)
            else:
                self._assign(one, exported=exported)
        names = frozenset((*(one.name for one in assigned), *named))
        if "i" in flags and words[0].raw not in ("export", "readonly"):
            state.integers |= names
        if (words[0].raw == "readonly" or ("r" in flags and not state.locals)) and not state.guesses:
            state.fixed |= names
        for name in named if exported else ():
            if held := state.script.variables.get(name):
                on = "n" not in flags or words[0].raw != "export"
                state.script.variables[name] = Variable(texts=held.texts, line=held.line, exported=on)

    def _typed(self, one: Assigned, flags: str, *, exported: bool) -> None:
        """Set what `declare -i` declares: its value is arithmetic; of -u, -l and -n it is unknown."""
        number = self.shell.calculated(one.texts[0].chars, one.line) if "i" in flags and len(one.texts) == 1 else None
        chars = GAP if number is None else str(number)
        self._assign(
            Assigned(name=one.name, texts=[Text(chars, (one.line,) * len(chars))], line=one.line, append=False),
            exported=exported,
        )

    def _builtin(self, first: str, words: list[Word], texts: list[Text], line: int) -> bool:
        """Do what a builtin does; tell whether it was one."""
        state = self.state
        if first in ("source", "."):
            self._source(words)
        elif first == "set":
            self._set(texts[1:])
        elif first == "shift":
            count = int(texts[1].chars) if len(texts) > 1 and texts[1].chars.isdecimal() else 1
            state.parameters = None if state.parameters is None or state.guesses else state.parameters[count:]
        elif first == "unset":
            self._unset([text.chars for text in texts[1:]], line)
        elif first == "eval":
            self._eval(texts[1:], line)
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
        elif first in _SHELLS and len(texts) > 1:
            return self._other_shell(texts[1:], line)
        else:
            return False
        return True

    def _set(self, texts: list[Text]) -> None:
        flags = [text.chars for text in texts]
        if "--" in flags:
            unsure = self.state.guesses or any(not text.known for text in texts)
            self.state.parameters = None if unsure else texts[flags.index("--") + 1 :]
        if "-a" in flags or "allexport" in flags:
            self.state.exports_all = "+o" not in flags
        elif "+a" in flags:
            self.state.exports_all = False

    def _unset(self, names: list[str], line: int) -> None:
        state = self.state
        for name in names:
            bare = name.partition("[")[0]
            if "-f" in names:
                state.functions.pop(name, None)
            elif bare in state.script.variables and bare != name and not state.guesses:
                self._unset_item(bare, name[len(bare) + 1 :].removesuffix("]"), line)
            elif bare in state.script.variables and state.guesses:
                state.note(line, f"{bare} is unset under a condition, which is not evaluated; its value holds")
            elif name in state.fixed:
                state.note(line, f"{name} is read-only and unset, which bash refuses; its value holds")
            else:
                state.script.variables.pop(name, None)
                state.integers -= {name}

    def _unset_item(self, name: str, index: str, line: int) -> None:
        """Take the last item off a list; one before it leaves a hole, with which nothing is counted here."""
        state = self.state
        items = list(state.script.variables[name].texts)
        number = None if index in ("@", "*") else self.shell.calculated(index, line)
        if number is not None and _countable(items) is not None and len(items) > 1:
            if number in (len(items) - 1, -1):
                state.assign(name, items[:-1], line, derived=True)
                return
            if number >= len(items):
                return
        state.lose(name, line, "has an item unset")

    def _leave(self, first: str, texts: list[Text]) -> None:
        """Leave a loop, a function or the script; under a condition that is not known, the script goes on."""
        state = self.state
        if state.guesses:
            self.maybe_left = self.maybe_left or first == "break"
            return
        count = texts[1].chars if len(texts) > 1 else "1"
        state.leaving = first
        state.levels = int(count) if count.isdecimal() else 1

    maybe_left = False

    def arithmetic(self, expression: str, line: int, setter: str) -> None:
        """Do `((...))` or `let`; what it sets is unknown where its value is."""
        state = self.state
        names = names_in_arithmetic(expression)
        number = None if state.guesses and names else self.shell.calculated(expression, line)
        state.status = None if number is None else number != 0
        for name in names if number is None else ():
            state.lose(name, line, f"is set by {setter} with what is not known")

    def _external(self, first: str, words: list[Word], texts: list[Text], given: dict[str, Variable]) -> None:
        state = self.state
        line = words[0].line
        for name in names_set(words):
            state.lose(name, line, f"is set by {first}, which is not executed")
        if first == "exec" and len(texts) > 1 and not state.guesses:
            state.starts.append(self._start(texts, given))
            state.leaving = "exit"
            return
        if started(texts):
            for name, text in assigned_by_env(words):
                given[name] = Variable(texts=(text,), line=line, exported=True)
        elif PurePath(first).name in _REMOTE and any(_STARTS.search(text.chars) for text in texts[1:]):
            state.note(line, f"what {first} starts is not read")
        elif first.endswith(".sh") and self._other_shell(texts, line):
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

    def _call(self, name: str, arguments: list[Text] | None, line: int, given: dict[str, Variable]) -> None:
        state = self.state
        if self._calls >= _MOST_CALLS:
            state.note(line, f"{name} calls itself more often than is followed")
            return
        before = (state.parameters, state.locals)
        state.parameters, state.locals = arguments, {}
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
        self._end("return")
        for variable, held in state.locals.items():
            if held is None:
                state.script.variables.pop(variable, None)
            else:
                state.script.variables[variable] = held
        state.parameters, state.locals = before

    def _end(self, *reasons: str) -> None:
        if self.state.leaving in reasons:
            self.state.leaving = ""

    def _eval(self, texts: list[Text], line: int) -> None:
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

    def _other_shell(self, texts: list[Text], line: int) -> bool:
        """Read `bash -c TEXT` and `bash FILE` on: a shell that has nothing but what is exported."""
        state = self.state
        words = [text for text in texts if not re.fullmatch(r"-[eux]+", text.chars)]
        if not words:
            return False
        is_text = words[0].chars == "-c" and len(words) > 1
        name = PurePath(words[0].chars).name
        content = None if is_text or GAP in name or words[0].chars.startswith("/") else self._beside(name)
        if not is_text and (content is None or name in self._inside):
            return False
        held, before = self.fork(), state.locals
        state.script.variables = {key: value for key, value in held.variables.items() if value.exported}
        state.functions, state.parameters, state.exports_all, state.locals = {}, _countable(words[1:]), False, None
        state.integers = state.fixed = frozenset()
        shown = "a text" if is_text else name
        state.within.append((line, f"the program is started by another shell, which runs {shown}: it is read on in"))
        if is_text:
            state.parameters = _countable(words[3:])
            text = words[1]
            self._read_on(Expansion(script=text.chars, around=self.around, line=line, lines=text.lines))
        else:
            self._read_file(name, content or "")
        state.within.pop()
        self.join(held)
        state.locals, state.status = before, None
        return True

    def _source(self, words: list[Word]) -> None:
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
        self._end("return")

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
