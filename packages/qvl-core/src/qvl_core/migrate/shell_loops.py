"""Loops: all rounds where they can be known; the first only, where it starts the program."""

from __future__ import annotations

import re

from qvl_core.migrate.ledger import kept_back
from qvl_core.migrate.script_facts import Variable
from qvl_core.migrate.shell_builtins import names_in_arithmetic
from qvl_core.migrate.shell_lists import ARITHMETIC, CARRY_OUT, GUESS, LEAVE_OUT, Lists, mode_of
from qvl_core.migrate.shell_options import started
from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text, Word

_ARGUMENTS = re.compile(r"\$#|\$\{#\}|\$\{?[1@*]|\bgetopts\b")
# A here-document: what a script prints, such as how it is called.
_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?.*?^\s*\1$", re.DOTALL | re.MULTILINE)
_STARTS = re.compile(r"\b(?:msrun|torchrun)\b|_vlm\.py")


class Loops(Lists):
    """Carries out `for`, `while`, `until` and `for ((...))`."""

    def for_loop(self) -> None:
        shell, state = self.shell, self.state
        shell.skip_blanks()
        if found := ARITHMETIC.match(shell.script, shell.at):
            line = shell.line
            shell.step(len(found[0]))
            self._counting(found[1], line)
            return
        name = shell.word()
        words, known = list[Text](), True
        self.blank_lines()
        if found := re.compile(r"in(?=[\s;])").match(shell.script, shell.at):
            shell.step(len(found[0]))
            listed = shell.at
            while (word := shell.word()) is not None:
                matched = not word.quoted and any(set(text.chars) & set("*?[") for text in word.fields)
                words += [Text(GAP, (word.line,))] if matched else word.fields
            over = shell.script[listed : shell.at]
        else:
            over, known = "$@", state.parameters is not None
            words = state.parameters or []
        while shell.peek() and shell.peek() in "; \t\r\n#":
            shell.skip_blanks() if shell.peek() == "#" else shell.take()
        if self.end_here(("do",)):
            shell.step(2)
        if name is None:
            self.branch(GUESS, "done")
        elif state.skipping:
            self.list_of("done")
        elif not self._over_arguments(over, name.line):
            self._rounds(name, words, known=known)

    def _rounds(self, name: Word, words: list[Text], *, known: bool) -> None:
        """Carry out the rounds of `for NAME in WORDS`; the first only, where it starts the program."""
        state, shell = self.state, self.shell
        at, line = shell.at, shell.line
        known = known and all(text.known and not text.many for text in words)
        if known and not words:
            self.branch(LEAVE_OUT, "done")
            state.status = True
            return
        starts, touched = len(state.starts), state.touched
        state.touched = set()
        for number, text in enumerate(words if known else (words or [Text(GAP, (name.line,))])[:1]):
            shell.go(at, line)
            self._take_round(name, text)
            state.rounds += not known
            self.branch(CARRY_OUT if known and not state.guesses else GUESS, "done")
            state.rounds -= not known
            if self._left_loop() or self._starts_in(starts, name, words, number) or not known or state.guesses:
                break
            if self._too_long(shell.at - at, name.line):
                break
        if not known or state.guesses:
            # Further rounds, or none at all, would leave it with another value.
            self._take_round(name, Text(GAP, (name.line,)))
        state.touched |= touched
        state.status = None

    def _take_round(self, name: Word, text: Text) -> None:
        """Set the variable of a loop: that is never under a condition of its own."""
        before = self.state.script.variables.get(name.raw)
        self.state.touched.add(name.raw)
        exported = self.state.exports_all or bool(before and before.exported)
        self.state.script.variables[name.raw] = Variable(texts=(text,), line=text.line or name.line, exported=exported)

    def _starts_in(self, starts: int, name: Word, words: list[Text], number: int) -> bool:
        """Tell, and say, whether the round that was read has started the program and more would follow."""
        if not any(started(start.words) for start in self.state.starts[starts:]):
            return False
        if number + 1 < len(words):
            shown = ", ".join(kept_back(name.raw, text.chars) for text in words)[:200].replace(GAP, "...")
            held = kept_back(name.raw, words[number].chars).replace(GAP, "...")
            self.state.note(
                name.line,
                f"a loop starts the program for {name.raw} = {shown}: only {name.raw} = {held} is read; each of the "
                "others is a recipe of its own (qvl run RECIPE --set KEY=VALUE)",
            )
        return True

    def _left_loop(self) -> bool:
        """Tell whether a loop ends behind the round that was read; `break 2` leaves the loop around it too."""
        state = self.state
        if self.maybe_left:
            self.maybe_left = False
            state.note(self.shell.line, "whether the loop that ends here goes on is not known: one round is read")
            return True
        if state.leaving in ("break", "continue"):
            state.levels -= 1
            stays = state.leaving == "continue" and state.levels <= 0
            if state.levels <= 0:
                state.leaving = ""
            return not stays
        return bool(state.leaving)

    def _too_long(self, length: int, line: int) -> bool:
        """Tell whether a loop goes on longer than is read; what it sets is unknown then."""
        if not self.state.spend(length):
            return False
        self.state.note(line, "a loop is longer than is read")
        for name in sorted(self.state.touched):
            if name in self.state.script.variables:
                self.state.lose(name, line, "is set in a loop that is longer than is read")
        return True

    def while_loop(self, *, until: bool) -> None:
        state, shell = self.state, self.shell
        at, line = shell.at, shell.line
        starts, touched = len(state.starts), state.touched
        state.touched = set()
        skipping = state.skipping
        while True:
            shell.go(at, line)
            self.list_of("do")
            if not skipping and state.status is None and self._over_arguments(shell.script[at : shell.at], line):
                break
            mode = mode_of(state.status, not until)
            state.rounds += mode == GUESS
            self.branch(mode, "done")
            state.rounds -= mode == GUESS
            if skipping or mode != CARRY_OUT or state.guesses:
                if mode == GUESS and not skipping:
                    self._unsure(line)
                self._left_loop() if not skipping else None
                break
            if self._left_loop():
                break
            if any(started(start.words) for start in state.starts[starts:]):
                state.note(line, "a loop starts the program: only its first round is read")
                break
            if self._too_long(shell.at - at, line):
                break
        state.touched |= touched
        state.status = None

    def _over_arguments(self, text: str, line: int) -> bool:
        """Pass over a loop that reads what the script is started with, as if nothing were; tell whether it was one.

        A loop that may start the program is read all the same.
        """
        state, shell = self.state, self.shell
        if state.parameters is not None or not state.are_the_scripts or not _ARGUMENTS.search(text):
            return False
        at, start = shell.at, shell.line
        self.branch(LEAVE_OUT, "done")
        body = shell.script[at : shell.at]
        called = [one for name, one in state.functions.items() if re.search(rf"\b{re.escape(name)}\b", body)]
        texts = (body, *(one.script[one.at :].split("\n}")[0] for one in called))
        if any(_STARTS.search(_DOCUMENT.sub("", text)) for text in texts):
            shell.go(at, start)
            return False
        held = line % LINES_OF_A_FILE
        state.note(line, f"the loop of line {held} reads what the script is started with: taken as not given")
        return True

    def _unsure(self, line: int) -> None:
        held = line % LINES_OF_A_FILE
        if any(name in self.state.script.variables for name in self.state.touched):
            self.state.note(line, f"how often the loop of line {held} runs is not known: one round is read")

    def _counting(self, head: str, line: int) -> None:
        """Carry out `for ((a; b; c))`."""
        state, shell = self.state, self.shell
        parts = [*head.split(";"), "", "", ""][:3]
        while shell.peek() and shell.peek() in "; \t\r\n":
            shell.take()
        opened = self.end_here(("do", "{"))
        shell.step(len(opened))
        end = "}" if opened == "{" else "done"
        at, start = shell.at, shell.line
        if state.skipping or state.guesses:
            for name in names_in_arithmetic(head) if not state.skipping else ():
                state.lose(name, line, "counts the rounds of a loop")
            self.branch(GUESS, end)
            return
        starts, touched = len(state.starts), state.touched
        state.touched = set()
        self.arithmetic(parts[0], line, "((...))")
        while True:
            going = shell.calculated(parts[1], line) if parts[1].strip() else 1
            shell.go(at, start)
            state.rounds += going is None
            self.branch(GUESS if going is None else CARRY_OUT if going else LEAVE_OUT, end)
            state.rounds -= going is None
            if not going or self._left_loop():
                break
            if any(started(one.words) for one in state.starts[starts:]):
                state.note(line, "a loop starts the program: only its first round is read")
                break
            if self._too_long(shell.at - at, line):
                break
            self.arithmetic(parts[2], line, "((...))")
        state.touched |= touched
        state.status = None
