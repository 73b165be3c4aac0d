"""What a launch script says: its variables, what it exports, and the options of the program that it starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

from qvl_core.migrate.script_facts import Script, Variable
from qvl_core.migrate.shell_builtins import (
    DECLARING,
    assigned_by_env,
    exports,
    names_in_arithmetic,
    names_set,
)
from qvl_core.migrate.shell_options import read_command, starting_command
from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text, Word
from qvl_core.migrate.shell_words import Expansion

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_OPENING = ("if", "for", "while", "until", "case", "{", "select")
_CLOSING = ("fi", "done", "esac", "}")
_BETWEEN = ("then", "else", "elif", "do", "!", "time")
_RESERVED = re.compile(r"(if|then|else|elif|fi|for|while|until|do|done|case|esac|select|\{|\}|!|time)(?=[\s;]|\Z)")
_MOST_FILES = 16
# Characters that variables may make all together; what is more is not known.
_EXPANDED_LIMIT = 4 << 20
_ARITHMETIC = re.compile(r"[ \t]*\(\(([^\n()]*(?:\([^\n()]*\)[^\n()]*)*)\)\)")
_FUNCTION = re.compile(r"(?:function[ \t]+)?[A-Za-z_][\w-]*[ \t]*\(\)")


def read_script(text: str, sourced: Callable[[str], str | None] = lambda name: None) -> Script:
    """Read a script. Nothing of it is executed, and nothing of this process's environment is looked at.

    `sourced` gives the text of a file that the script sources, by its name without folder; None where it is not there.
    """
    return _Reader(text, sourced).read()


class _Reader:
    def __init__(self, text: str, sourced: Callable[[str], str | None]) -> None:
        self._script = Script()
        self._sourced = sourced
        self._inside: list[str] = []
        self._expanded = 0
        self._exports_all = False
        self._depth = 0
        # The depth inside each `case` that is open: there, `)` ends a pattern.
        self._cases: list[int] = []
        self._conditional = False
        self._commands: list[list[Text]] = []
        self._heredocs: list[tuple[str, bool]] = []
        self._shell = self._expansion(text, 1)

    def _expansion(self, text: str, line: int) -> Expansion:
        def assign(name: str, value: Text) -> None:
            self._assign(name, [value], value.line)

        script = text.removeprefix("\ufeff")
        return Expansion(script=script, lookup=self._lookup, assign=assign, line=line, notes=self._script.notes)

    def read(self) -> Script:
        self._run()
        self._options()
        self._script.notes.sort()
        return self._script

    def _run(self) -> None:
        while self._shell.peek():
            self._step()

    def _lookup(self, name: str) -> list[Text] | None:
        found = self._script.variables.get(name)
        if found is None:
            return None
        # A=$B$B, B=$C$C, ... doubles with every line.
        self._expanded += sum(len(text.chars) for text in found.texts)
        return list(found.texts) if self._expanded <= _EXPANDED_LIMIT else None

    def _assign(self, name: str, texts: list[Text], line: int, *, exported: bool = False, append: bool = False) -> None:
        before = self._script.variables.get(name)
        if append and before is not None:
            one = len(before.texts) == len(texts) == 1
            texts = [Text.joined([*before.texts, *texts])] if one else [*before.texts, *texts]
        exported = exported or self._exports_all or bool(before and before.exported)
        new = Variable(texts=tuple(texts), line=line, exported=exported)
        under = self._depth > 0 or self._conditional
        if under and before is not None and before.text != new.text:
            held = before.line % LINES_OF_A_FILE
            remark = f"{name} is set again under a condition, which is not evaluated; line {held} holds"
            self._script.notes.append((line, remark))
            return
        if under and before is None:
            self._script.notes.append((line, f"{name} is set under a condition, which is taken as true"))
        if before is not None and not append and not under and before.text != new.text and before.text:
            self._script.repeated.append((name, before.line, before.text, line, new.text))
        self._script.variables[name] = new

    def _lose(self, name: str, setter: str, line: int) -> None:
        """Take a variable as unknown from here on: a builtin sets it, and nothing is executed."""
        unknown = Text(GAP, (line,))
        before = self._script.variables.get(name)
        if before is None or self._depth > 0 or self._conditional:
            self._assign(name, [unknown], line)
            return
        self._script.variables[name] = Variable(texts=(unknown,), line=line, exported=before.exported)
        self._script.notes.append((line, f"{name} is set by {setter}, which is not executed: its value is not known"))

    def _step(self) -> None:
        shell = self._shell
        shell.skip_blanks()
        char = shell.peek()
        if not char:
            return
        if char == "\n":
            shell.take()
            self._conditional = False
            self._skip_heredocs()
        elif shell.script.startswith(("&&", "||"), shell.at):
            shell.at += 2
            self._conditional = True
        elif char in ";&|":
            shell.take()
            self._conditional = self._conditional and char == "|"
        elif found := _ARITHMETIC.match(shell.script, shell.at):
            shell.at = found.end()
            for name in names_in_arithmetic(found[1]):
                self._lose(name, "((...))", shell.line)
        elif char in "()":
            shell.take()
            least = self._cases[-1] if self._cases else 0
            self._depth = max(least, self._depth + (1 if char == "(" else -1))
        elif char in "<>":
            self._redirection()
        elif found := _FUNCTION.match(shell.script, shell.at):
            shell.at = found.end()
        elif found := _RESERVED.match(shell.script, shell.at):
            self._reserved(found[1])
        else:
            self._command()

    def _reserved(self, word: str) -> None:
        shell = self._shell
        shell.at += len(word)
        if word in _OPENING:
            self._depth += 1
        elif word == "esac" and self._cases:
            self._depth = self._cases.pop() - 1
        elif word in _CLOSING:
            self._depth = max(self._cases[-1] if self._cases else 0, self._depth - 1)
        if word == "case":
            self._cases.append(self._depth)
            shell.word()
            if found := re.compile(r"\s*in(?=\s)").match(shell.script, shell.at):
                shell.line += found[0].count("\n")
                shell.at = found.end()
        elif word == "for" and (found := _ARITHMETIC.match(shell.script, shell.at)):
            shell.at = found.end()
        elif word in ("for", "select"):
            name = shell.word()
            if name is not None:
                self._script.variables[name.raw] = Variable(texts=(Text(GAP, (name.line,)),), line=name.line)
            while shell.peek() not in ("", "\n", ";"):
                if shell.word() is None and shell.peek() not in ("", "\n", ";"):
                    shell.take()

    def _command(self) -> None:
        shell = self._shell
        words: list[Word] = []
        assigned: list[tuple[str, list[Text], int, bool]] = []
        while True:
            shell.skip_blanks()
            char = shell.peek()
            if char in ("", "\n", ";", "&", "|", "(", ")"):
                break
            if char in "<>":
                self._redirection()
                continue
            first = words[0].raw if words else ""
            found = _ASSIGNMENT.match(shell.script, shell.at)
            if found and (not words or first in DECLARING):
                line = shell.line
                shell.at = found.end()
                texts = shell.array() if shell.peek() == "(" else [shell.value()]
                assigned.append((found[1], texts, line, bool(found[2])))
                continue
            word = shell.word()
            if word is None:
                break
            # `2>&1`: the number belongs to the redirection.
            if not (word.raw.isdecimal() and shell.peek() and shell.peek() in "<>"):
                words.append(word)
        self._carry_out(words, assigned)

    def _carry_out(self, words: list[Word], assigned: list[tuple[str, list[Text], int, bool]]) -> None:
        first = words[0].raw if words else ""
        exported = exports(words)
        for name, texts, line, append in assigned:
            self._assign(name, texts, line, exported=exported, append=append)
        if first in DECLARING and exported:
            for word in words[1:]:
                if word.raw in self._script.variables:
                    held = self._script.variables[word.raw]
                    self._script.variables[word.raw] = Variable(texts=held.texts, line=held.line, exported=True)
        elif first in ("source", "."):
            self._source(words)
        elif first == "set":
            flags = [word.raw for word in words[1:]]
            if "-a" in flags or "allexport" in flags:
                self._exports_all = "+o" not in flags
            elif "+a" in flags:
                self._exports_all = False
        elif first == "unset":
            for word in words[1:]:
                self._script.variables.pop(word.raw, None)
        elif words:
            self._commands.append([text for word in words for text in word.fields])
            for name, text in assigned_by_env(words) if first not in ("echo", "printf") else ():
                self._assign(name, [text], words[0].line, exported=True)
            for name in names_set(words):
                self._lose(name, first, words[0].line)

    def _source(self, words: list[Word]) -> None:
        """Read on in a file that lies beside the script; what is sourced from elsewhere is only noted."""
        line = words[0].line
        path = words[1].fields[0].chars if len(words) > 1 and words[1].fields else ""
        name = PurePath(path).name
        beside = bool(path) and GAP not in name and not path.startswith("/")
        text = self._sourced(name) if beside and name not in self._inside else None
        if text is None or len(self._script.sourced) >= _MOST_FILES:
            self._script.sources.append((line, " ".join(word.raw for word in words[1:])))
            return
        if name not in self._script.sourced:
            self._script.sourced.append(name)
        number = self._script.sourced.index(name) + 1
        before, self._shell = self._shell, self._expansion(text, number * LINES_OF_A_FILE + 1)
        self._inside.append(name)
        self._run()
        self._inside.pop()
        self._shell = before

    def _redirection(self) -> None:
        shell = self._shell
        if shell.script.startswith("<<<", shell.at):
            shell.at += 3
        elif found := re.compile(r"<<(-?)[ \t]*(['\"]?)(\w+)\2").match(shell.script, shell.at):
            shell.at = found.end()
            self._heredocs.append((found[3], bool(found[1])))
            return
        while shell.peek() and shell.peek() in "<>&|":
            shell.take()
        shell.word()

    def _skip_heredocs(self) -> None:
        for end, tabs in self._heredocs:
            while self._shell.peek():
                start = self._shell.at
                while self._shell.peek() not in ("", "\n"):
                    self._shell.take()
                line = self._shell.script[start : self._shell.at].rstrip("\r")
                self._shell.take()
                if (line.lstrip("\t") if tabs else line) == end:
                    break
        self._heredocs.clear()

    def _options(self) -> None:
        found = read_command(starting_command(self._commands, self._script.notes) or self._unstarted())
        self._script.program = found.program
        self._script.notes += found.notes
        for option in found.options:
            before = self._script.options.get(option.name)
            if before is not None and before.values != option.values:
                texts = (" ".join(before.values), " ".join(option.values))
                self._script.repeated.append((f"--{option.name}", before.line, texts[0], option.line, texts[1]))
            self._script.options[option.name] = option

    def _unstarted(self) -> list[Text]:
        """Give what the variables named *_ARGS hold, where the script starts nothing that we can see."""
        held = [variable for name, variable in self._script.variables.items() if name.endswith(("_ARGS", "_ARGUMENTS"))]
        if held:
            remark = "no command that starts the program was found; the options are those of the *_ARGS variables"
            self._script.notes.append((held[0].line, remark))
        return [word for variable in held for text in variable.texts for word in text.words()]
