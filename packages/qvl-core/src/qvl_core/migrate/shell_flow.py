"""The order in which a script's commands are carried out: conditions, loops, functions, subshells.

What can be known is followed as bash does it. Of a condition that cannot be known both branches are read: the first
value holds, and the other is told. Of a loop that starts the program the first round is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qvl_core.migrate.shell_globs import matches
from qvl_core.migrate.shell_lists import ARITHMETIC, CARRY_OUT, GUESS, LEAVE_OUT, RESERVED, mode_of
from qvl_core.migrate.shell_loops import Loops
from qvl_core.migrate.shell_state import Function
from qvl_core.migrate.shell_text import GAP
from qvl_core.migrate.shell_words import Expansion

_FUNCTION = re.compile(
    r"(?:function[ \t]+([\w.:-]+)(?:[ \t]*\([ \t]*\))?|([A-Za-z_][\w.:-]*)[ \t]*\([ \t]*\))(?=[\s{(])"
)


class Flow(Loops):
    """Reads a script from its first command to its last."""

    def run_function(self, function: Function) -> None:
        before = self.shell
        self.shell = Expansion(
            script=function.script, around=self.around, at=function.at, line=function.line, lines=function.lines
        )
        self.one()
        self.spend(self.shell.at - function.at)
        self.shell = before

    def one(self) -> None:
        """Carry out one command, simple or compound, with its redirections."""
        shell, state = self.shell, self.state
        shell.skip_blanks()
        if shell.peek() and shell.peek() in "<>":
            self.redirection()
        elif found := ARITHMETIC.match(shell.script, shell.at):
            line = shell.line
            shell.step(len(found[0]))
            if not state.skipping:
                self.arithmetic(found[1], line, "((...))")
        elif shell.peek() == "(":
            self._compound(self._subshell)
        elif re.compile(r"\[\[(?=\s)").match(shell.script, shell.at):
            self.double_condition()
        elif found := _FUNCTION.match(shell.script, shell.at):
            self._define(found)
        elif found := RESERVED.match(shell.script, shell.at):
            self._reserved(found[1])
        else:
            self.simple()

    def _reserved(self, word: str) -> None:
        shell, state = self.shell, self.state
        shell.step(len(word))
        compounds: dict[str, Callable[[], None]] = {
            "if": self._if,
            "while": lambda: self.while_loop(until=False),
            "until": lambda: self.while_loop(until=True),
            "for": self.for_loop,
            "select": self.for_loop,
            "case": self._case,
            "{": self._group,
        }
        if word in compounds:
            if word == "select":
                state.note(shell.line, "select asks who starts the script: its first answer is taken")
            self._compound(compounds[word])
        elif word == "!":
            self.one()
            state.status = None if state.status is None else not state.status
        elif word == "time":
            shell.skip_blanks()
            if found := re.compile(r"-p(?=\s)").match(shell.script, shell.at):
                shell.step(len(found[0]))
            self.one()

    def _compound(self, command: Callable[[], None]) -> None:
        """Carry out a compound command; in a pipeline, what it sets is gone with it."""
        piped, held, repeated = self.piped_here, self.state.fork(), len(self.state.script.repeated)
        gate = self.gate
        command()
        self.gate, self.piped_here = gate, piped
        while True:
            self.shell.skip_blanks()
            if not (self.shell.peek() and self.shell.peek() in "<>"):
                break
            self.redirection()
        if piped or re.compile(r"\|(?!\|)").match(self.shell.script, self.shell.at):
            del self.state.script.repeated[repeated:]
            self.state.join(held)
            self.state.status = None

    def _group(self) -> None:
        self.list_of("}")

    def _subshell(self) -> None:
        self.shell.take()
        held, repeated = self.state.fork(), len(self.state.script.repeated)
        skipping = self.state.skipping
        self.list_of(")")
        if not skipping:
            del self.state.script.repeated[repeated:]
            self.state.join(held)

    def _if(self) -> None:
        """Follow the branch that is known to be taken; where none is, guess."""
        mode, taken = CARRY_OUT, False
        while True:
            self.branch(mode, "then")
            status = self.state.status
            own = mode if mode == LEAVE_OUT else mode_of(status)
            own = GUESS if mode == GUESS and own == CARRY_OUT else own
            end = self.branch(own, "elif", "else", "fi")
            taken = taken or own == CARRY_OUT
            mode = self._rest(mode, status)
            if end == "else":
                end = self.branch(mode, "fi")
                taken = taken or mode == CARRY_OUT
            if end != "elif":
                break
        if not taken:
            self.state.status = None

    @staticmethod
    def _rest(mode: str, status: bool | None) -> str:
        """How the branches behind a condition are taken."""
        if mode == LEAVE_OUT or status is True:
            return LEAVE_OUT
        return GUESS if mode == GUESS or status is None else CARRY_OUT

    def _case(self) -> None:
        shell, state = self.shell, self.state
        word = shell.word()
        text = " ".join(field.chars for field in word.fields) if word else ""
        known = bool(word) and GAP not in text
        if found := re.compile(r"\s*in(?=\s)").match(shell.script, shell.at):
            shell.step(len(found[0]))
        mode = CARRY_OUT
        while True:
            while shell.peek() and (shell.peek() in " \t\r\n;#" or shell.continuation()):
                shell.skip_blanks() if shell.peek() == "#" else shell.take()
            if not shell.peek() or self.end_here(("esac",)):
                shell.step(4)
                return
            start = shell.at
            matches = self._pattern(text) if known else None
            own = mode if mode == LEAVE_OUT else mode_of(matches)
            own = GUESS if mode == GUESS and own == CARRY_OUT else own
            end = self.branch(own, ";;&", ";&", ";;", "esac")
            if end in (";;&", ";&") and own != LEAVE_OUT:
                mode = GUESS
                state.note(shell.line, f"{end} goes on in the next branch: it is taken as a condition")
            else:
                mode = self._rest(mode, matches)
            if end == "esac" or (not end and shell.at == start):
                return

    def _pattern(self, text: str) -> bool | None:
        """Step over `a|b)`; tell whether one of them matches."""
        shell = self.shell
        if shell.peek() == "(":
            shell.take()
        found: list[bool | None] = []
        while shell.peek() and shell.peek() not in ")":
            word = shell.word()
            if word is None:
                if shell.peek() == ")":
                    break
                shell.take()
                continue
            pattern = word.fields[0].chars if word.fields else ""
            if word.quoted and set(pattern) & set("*?["):
                found.append(None)
                continue
            found.append(matches(pattern, text, self.state.work))
        shell.take()
        return True if True in found else None if None in found else False

    def _define(self, found: re.Match[str]) -> None:
        """Keep where a function's body stands, and step over it."""
        shell, state = self.shell, self.state
        shell.step(len(found[0]))
        self.blank_lines()
        function = Function(script=shell.script, lines=shell.lines, at=shell.at, line=shell.line)
        if not state.skipping:
            state.functions[found[1] or found[2]] = function
            state.status = True
        gate = self.gate
        state.skipped += 1
        self.one()
        state.skipped -= 1
        self.gate = gate
