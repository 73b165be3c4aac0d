"""What a script has set so far: variables, parameters, functions; and what is sure of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from qvl_core.migrate.script_facts import Script, Variable
from qvl_core.migrate.shell_globs import Work
from qvl_core.migrate.shell_text import BLANKS, GAP, LINES_OF_A_FILE, Text, joint

# Characters that variables may make all together; what is more is not known.
_EXPANDED_LIMIT = 4 << 20
# Characters of loops, functions and eval that are read again, all together.
_MOST_READ = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Function:
    """Where a function's body stands."""

    script: str
    lines: tuple[int, ...]
    at: int
    line: int


@dataclass(kw_only=True)
class Start:
    """A command that may start the program: its words, what it alone is given, and the variables at that moment."""

    words: list[Text]
    given: dict[str, Variable]
    variables: dict[str, Variable]
    repeated: int
    noted: int
    folder: tuple[int, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a subshell leaves as it was."""

    variables: dict[str, Variable]
    functions: dict[str, Function]
    parameters: list[Text] | None
    are_the_scripts: bool
    exports_all: bool
    folder: tuple[int, str] | None
    integers: frozenset[str]
    fixed: frozenset[str]


@dataclass(kw_only=True)
class State:
    """`guesses` counts conditions around that are not known; `skipping` is on in what is not carried out.

    `status` is that of the last command, None where unknown; `leaving` is "break", "continue", "return" or "exit".
    """

    script: Script = field(default_factory=Script)
    functions: dict[str, Function] = field(default_factory=dict)
    # What stands behind the script's or function's name; None where that is not known.
    parameters: list[Text] | None = None
    # Whether that is what the script is started with, at its top or passed on as "$@".
    are_the_scripts: bool = True
    starts: list[Start] = field(default_factory=list)
    # Where the script has gone: line and words of the last cd.
    folder: tuple[int, str] | None = None
    guesses: int = 0
    skipped: int = 0
    status: bool | None = True
    leaving: str = ""
    levels: int = 0
    exports_all: bool = False
    locals: dict[str, Variable | None] | None = None
    # What is declared an integer, and what is read-only.
    integers: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    # Loops around of which it is not known how often they run.
    rounds: int = 0
    looked_up: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    # What is read where a command stands: functions, eval, other shells; line and remark, outermost first.
    within: list[tuple[int, str]] = field(default_factory=list)
    expanded: int = 0
    # Characters that loops, functions and eval had read again.
    read_again: int = 0
    # Steps that are left for patterns.
    work: Work = field(default_factory=Work)

    @property
    def skipping(self) -> bool:
        return self.skipped > 0 or bool(self.leaving)

    def spend(self, count: int) -> bool:
        """Count characters that are read again; tell whether there are more than are read at all."""
        self.read_again += count + 200
        return self.read_again > _MOST_READ

    def note(self, line: int, text: str) -> None:
        if not self.skipping:
            self.script.notes.append((line, text))

    def lookup(self, name: str) -> list[Text] | None:
        if self.skipping:
            return None
        if not (name[0].isalpha() or name[0] == "_"):
            return self._parameter(name)
        self.looked_up.add(name)
        found = self.script.variables.get(name)
        if found is None:
            # The only one that no shell takes from the one that starts it.
            return [Text(BLANKS, (0,) * len(BLANKS))] if name == "IFS" else None
        # A=$B$B, B=$C$C, ... doubles with every line.
        self.expanded += sum(len(text.chars) for text in found.texts)
        return list(found.texts) if self.expanded <= _EXPANDED_LIMIT else None

    def _parameter(self, name: str) -> list[Text] | None:
        known = self.parameters
        if known is None or (name not in ("@", "*", "#") and not name.isdecimal()):
            return None
        if name not in "@*" and any(text.many for text in known):
            return None
        if name == "#":
            return [Text(str(len(known)), (0,) * len(str(len(known))))]
        if name == "*":
            separators = Text.joined(self.lookup("IFS") or [Text(BLANKS)])
            return [Text.joined([part for text in known for part in (joint(separators, text.line), text)][1:])]
        if name == "@":
            return list(known)
        return None if name == "0" else known[int(name) - 1 : int(name)]

    def assign_text(self, name: str, value: Text) -> None:
        """Set a variable from inside an expansion: ${X:=value}, $((X = 1))."""
        if not self.skipping:
            self.assign(name, [value], value.line)

    def assign(
        self,
        name: str,
        texts: list[Text],
        line: int,
        *,
        exported: bool = False,
        append: bool = False,
        derived: bool = False,
        items: bool = False,
    ) -> None:
        """Set a variable; `items` are those of a list.

        Under a condition that is not known the value from before holds, and both are told.
        """
        before = self.script.variables.get(name)
        if name in self.fixed and before is not None:
            held = before.line % LINES_OF_A_FILE
            self.note(line, f"{name} is read-only and set again, which bash refuses; line {held} holds")
            return
        if name in self.integers and (append or not _is_number(texts)):
            texts, append = [Text(GAP, (line,))], False
            self.note(line, f"{name} is declared an integer and set by a sum: its value is not known")
        changed = append or derived
        if append and before is not None:
            first = [Text.joined([*before.texts[:1], *texts])]
            texts = [*before.texts, *texts] if items else [*first, *before.texts[1:]]
        exported = exported or self.exports_all or bool(before and before.exported)
        new = Variable(texts=tuple(texts), line=line, exported=exported)
        self.touched.add(name)
        if self.guesses and self.rounds and changed and before is not None and before.text != new.text:
            self._change_in_rounds(name, before, new)
            return
        if self.guesses and before is not None and before.text != new.text:
            held = before.line % LINES_OF_A_FILE
            self.note(line, f"{name} is set again under a condition, which is not evaluated; line {held} holds")
            return
        if self.guesses and before is None:
            self.note(line, f"{name} is set under a condition, which is taken as true")
        restated = before is not None and not append and not derived and not self.guesses and before.line != line
        if restated and before is not None and before.text != new.text and before.text:
            self.script.repeated.append((name, before.line, before.text, line, new.text))
        self.script.variables[name] = new

    def _change_in_rounds(self, name: str, before: Variable, new: Variable) -> None:
        """Let a variable be unknown that each round of a loop changes; what stood there before may stay in front."""
        line = (new.line,)
        unknown = Text(GAP, line, many=True)
        if len(new.texts) > len(before.texts):
            texts: tuple[Text, ...] = (*before.texts, unknown)
        elif before.text and new.text.startswith(before.text):
            blank = Text(" ", line) if new.text[len(before.text) :][:1].isspace() else Text()
            texts = (Text.joined([*before.texts, blank, unknown.one()]),)
        else:
            texts = (unknown,)
        self.script.variables[name] = Variable(texts=texts, line=new.line, exported=new.exported)
        self.note(new.line, f"{name} is changed by a loop, and how often that runs is not known: nor is its value")

    def lose(self, name: str, line: int, why: str) -> None:
        """Take a variable as unknown from here on."""
        unknown = Text(GAP, (line,), many=True)
        before = self.script.variables.get(name)
        self.touched.add(name)
        if self.guesses and not self.rounds:
            self.assign(name, [unknown], line)
            return
        self.script.variables[name] = Variable(texts=(unknown,), line=line, exported=bool(before and before.exported))
        self.note(line, f"{name} {why}: its value is not known")

    def fork(self) -> Held:
        """Give what a subshell does not change."""
        return Held(
            variables=dict(self.script.variables),
            functions=dict(self.functions),
            parameters=self.parameters,
            are_the_scripts=self.are_the_scripts,
            exports_all=self.exports_all,
            folder=self.folder,
            integers=self.integers,
            fixed=self.fixed,
        )

    def join(self, held: Held) -> None:
        """Leave a subshell: what it set is gone, what it started stays."""
        self.script.variables, self.functions = held.variables, held.functions
        self.parameters, self.exports_all, self.folder = held.parameters, held.exports_all, held.folder
        self.are_the_scripts, self.integers, self.fixed = held.are_the_scripts, held.integers, held.fixed
        self.end("exit", "break", "continue", "return")

    def end(self, *reasons: str) -> None:
        """Go on behind what `leaving` has left."""
        if self.leaving in reasons:
            self.leaving = ""

    def make_local(self, name: str) -> None:
        """Let a variable be as it was once the function is left."""
        if self.locals is not None and name not in self.locals:
            self.locals[name] = self.script.variables.get(name)


def _is_number(texts: list[Text]) -> bool:
    return len(texts) == 1 and re.fullmatch(r"-?(?:0|[1-9]\d{0,17})", texts[0].chars) is not None
