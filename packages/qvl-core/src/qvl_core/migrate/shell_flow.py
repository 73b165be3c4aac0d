"""The order in which a script's commands are carried out: lists, conditions, loops, functions, subshells.

What can be known is followed as bash does it. Of a condition that cannot be known both branches are read: the first
value holds, and the other is told. Of a loop that starts the program the first round is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qvl_core.migrate.script_facts import Variable
from qvl_core.migrate.shell_builtins import DECLARING, names_in_arithmetic
from qvl_core.migrate.shell_commands import Assigned, Commands
from qvl_core.migrate.shell_conditions import Token, glob_pattern, holds
from qvl_core.migrate.shell_options import started
from qvl_core.migrate.shell_state import Function, State
from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text, Word
from qvl_core.migrate.shell_words import Expansion

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(?:\[([^\]\s]*)\])?(\+?)=")
_RESERVED = re.compile(
    r"(if|then|else|elif|fi|for|while|until|do|done|case|esac|select|function|\{|\}|!|time|coproc)(?=[\s;&|()<>]|\Z)"
)
_ARITHMETIC = re.compile(r"\(\(((?:[^()\n]|\((?:[^()\n]|\([^()\n]*\))*\))*)\)\)")
_FUNCTION = re.compile(
    r"(?:function[ \t]+([\w.:-]+)(?:[ \t]*\([ \t]*\))?|([A-Za-z_][\w.:-]*)[ \t]*\([ \t]*\))(?=[\s{(])"
)
_HEREDOC = re.compile(r"<<(-?)[ \t]*(['\"\\]?)(\w+)['\"]?")
_DEEPEST = 60
# Characters of loop bodies that are read again, all together.
_MOST_READ = 2 << 20
_CARRY_OUT, _LEAVE_OUT, _GUESS = "carry out", "leave out", "guess"


def _mode(status: bool | None, wanted: bool = True) -> str:
    return _GUESS if status is None else _CARRY_OUT if status == wanted else _LEAVE_OUT


class Flow(Commands):
    """Reads a script from its first command to its last."""

    def __init__(self, text: str, state: State, beside: Callable[[str], str | None]) -> None:
        super().__init__(text, state, beside)
        self._depth = 0
        self._read_again = 0
        # How the command behind && or || is taken.
        self._gate = _CARRY_OUT
        self._piped = False

    def run(self) -> None:
        while self.shell.peek():
            self._list()
            if self.shell.peek():
                # A `)`, `done` or `fi` too many.
                self.shell.take()

    def run_function(self, function: Function) -> None:
        before = self.shell
        self.shell = Expansion(
            script=function.script, around=self.around, at=function.at, line=function.line, lines=function.lines
        )
        self._one()
        self.shell = before

    def _list(self, *ends: str) -> str:
        """Carry out commands up to one of these words; give which, "" at the end of the text."""
        self._gate, piped_before = _CARRY_OUT, self._piped
        self._piped = False
        self._depth += 1
        shell = self.shell
        found = ""
        while True:
            shell.skip_blanks()
            if not shell.peek():
                break
            if found := self._end_here(ends):
                shell.step(len(found))
                break
            if self._depth > _DEEPEST:
                self.state.note(shell.line, f"more than {_DEEPEST} conditions inside each other are not followed")
                shell.at = len(shell.script)
                break
            self._step()
        self._depth -= 1
        self._gate, self._piped = _CARRY_OUT, piped_before
        return found

    def _end_here(self, ends: tuple[str, ...]) -> str:
        shell = self.shell
        for end in ends:
            if shell.script.startswith(end, shell.at):
                found = _RESERVED.match(shell.script, shell.at)
                if (not end[0].isalpha() and end != "}") or (found and found[1] == end):
                    return end
        return ""

    def _step(self) -> None:
        shell, state = self.shell, self.state
        char = shell.peek()
        if char == "\n":
            shell.take()
            self._gate, self._piped = _CARRY_OUT, False
            self._skip_heredocs()
        elif shell.script.startswith(("&&", "||"), shell.at):
            self._connect(shell.script[shell.at : shell.at + 2])
        elif char in ";&":
            shell.take()
            if char == "&" and state.status is not None:
                state.status = True
            self._gate, self._piped = _CARRY_OUT, False
        elif char == "|":
            shell.step(2 if shell.peek(1) == "&" else 1)
            self._piped = True
        elif char == ")":
            shell.take()
        else:
            self._gated(self._one)

    def _connect(self, sign: str) -> None:
        self.shell.step(2)
        self._piped = False
        self._gate = _mode(self.state.status, sign == "&&")
        # A command may stand on the next line.
        while True:
            self.shell.skip_blanks()
            if self.shell.peek() != "\n":
                return
            self.shell.take()
            self._skip_heredocs()

    def _gated(self, command: Callable[[], None]) -> None:
        state, status = self.state, self.state.status
        gate = self._gate
        state.skipped += gate == _LEAVE_OUT
        state.guesses += gate == _GUESS
        command()
        state.guesses -= gate == _GUESS
        state.skipped -= gate == _LEAVE_OUT
        self._gate = gate
        if gate == _LEAVE_OUT:
            state.status = status
        elif gate == _GUESS:
            state.status = None

    def _branch(self, mode: str, *ends: str) -> str:
        """Carry out, leave out or guess a list of commands."""
        state, status = self.state, self.state.status
        state.skipped += mode == _LEAVE_OUT
        state.guesses += mode == _GUESS
        end = self._list(*ends)
        state.guesses -= mode == _GUESS
        state.skipped -= mode == _LEAVE_OUT
        if mode != _CARRY_OUT:
            state.status = None if mode == _GUESS else status
        return end

    def _one(self) -> None:
        """Carry out one command, simple or compound, with its redirections."""
        shell, state = self.shell, self.state
        shell.skip_blanks()
        if shell.peek() and shell.peek() in "<>":
            self._redirection()
        elif found := _ARITHMETIC.match(shell.script, shell.at):
            line = shell.line
            shell.step(len(found[0]))
            if not state.skipping:
                self.arithmetic(found[1], line, "((...))")
        elif shell.peek() == "(":
            self._compound(self._subshell)
        elif re.compile(r"\[\[(?=\s)").match(shell.script, shell.at):
            self._double_condition()
        elif found := _FUNCTION.match(shell.script, shell.at):
            self._define(found)
        elif found := _RESERVED.match(shell.script, shell.at):
            self._reserved(found[1])
        else:
            self._simple()

    def _reserved(self, word: str) -> None:
        shell, state = self.shell, self.state
        shell.step(len(word))
        compounds: dict[str, Callable[[], None]] = {
            "if": self._if,
            "while": lambda: self._while(until=False),
            "until": lambda: self._while(until=True),
            "for": self._for,
            "select": self._for,
            "case": self._case,
            "{": self._group,
        }
        if word in compounds:
            if word == "select":
                state.note(shell.line, "select asks who starts the script: its first answer is taken")
            self._compound(compounds[word])
        elif word == "!":
            self._one()
            state.status = None if state.status is None else not state.status
        elif word == "time":
            shell.skip_blanks()
            if found := re.compile(r"-p(?=\s)").match(shell.script, shell.at):
                shell.step(len(found[0]))
            self._one()

    def _compound(self, command: Callable[[], None]) -> None:
        """Carry out a compound command; in a pipeline, what it sets is gone with it."""
        piped, held, repeated = self._piped, self.fork(), len(self.state.script.repeated)
        gate = self._gate
        command()
        self._gate, self._piped = gate, piped
        while True:
            self.shell.skip_blanks()
            if not (self.shell.peek() and self.shell.peek() in "<>"):
                break
            self._redirection()
        if piped or re.compile(r"\|(?!\|)").match(self.shell.script, self.shell.at):
            del self.state.script.repeated[repeated:]
            self.join(held)
            self.state.status = None

    def _group(self) -> None:
        self._list("}")

    def _subshell(self) -> None:
        self.shell.take()
        held, repeated = self.fork(), len(self.state.script.repeated)
        skipping = self.state.skipping
        self._list(")")
        if not skipping:
            del self.state.script.repeated[repeated:]
            self.join(held)

    def _if(self) -> None:
        """Follow the branch that is known to be taken; where none is, guess."""
        mode, taken = _CARRY_OUT, False
        while True:
            self._branch(mode, "then")
            status = self.state.status
            own = mode if mode == _LEAVE_OUT else _mode(status)
            own = _GUESS if mode == _GUESS and own == _CARRY_OUT else own
            end = self._branch(own, "elif", "else", "fi")
            taken = taken or own == _CARRY_OUT
            mode = self._rest(mode, status)
            if end == "else":
                end = self._branch(mode, "fi")
                taken = taken or mode == _CARRY_OUT
            if end != "elif":
                break
        if not taken:
            self.state.status = None

    @staticmethod
    def _rest(mode: str, status: bool | None) -> str:
        """How the branches behind a condition are taken."""
        if mode == _LEAVE_OUT or status is True:
            return _LEAVE_OUT
        return _GUESS if mode == _GUESS or status is None else _CARRY_OUT

    def _case(self) -> None:
        shell, state = self.shell, self.state
        word = shell.word()
        text = " ".join(field.chars for field in word.fields) if word else ""
        known = bool(word) and GAP not in text
        if found := re.compile(r"\s*in(?=\s)").match(shell.script, shell.at):
            shell.step(len(found[0]))
        mode = _CARRY_OUT
        while True:
            while shell.peek() and (shell.peek() in " \t\r\n;#" or shell.continuation()):
                shell.skip_blanks() if shell.peek() == "#" else shell.take()
            if not shell.peek() or self._end_here(("esac",)):
                shell.step(4)
                return
            start = shell.at
            matches = self._pattern(text) if known else None
            own = mode if mode == _LEAVE_OUT else _mode(matches)
            own = _GUESS if mode == _GUESS and own == _CARRY_OUT else own
            end = self._branch(own, ";;&", ";&", ";;", "esac")
            if end in (";;&", ";&") and own != _LEAVE_OUT:
                mode = _GUESS
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
            compiled = glob_pattern(pattern)
            found.append(None if compiled is None else bool(compiled.fullmatch(text)))
        shell.take()
        return True if True in found else None if None in found else False

    def _for(self) -> None:
        shell, state = self.shell, self.state
        shell.skip_blanks()
        if found := _ARITHMETIC.match(shell.script, shell.at):
            line = shell.line
            shell.step(len(found[0]))
            self._counting(found[1], line)
            return
        name = shell.word()
        words, known = list[Text](), True
        self._blank_lines()
        if found := re.compile(r"in(?=[\s;])").match(shell.script, shell.at):
            shell.step(len(found[0]))
            while (word := shell.word()) is not None:
                matched = not word.quoted and any(set(text.chars) & set("*?[") for text in word.fields)
                words += [Text(GAP, (word.line,))] if matched else word.fields
        else:
            known = state.parameters is not None
            words = state.parameters or []
        while shell.peek() and shell.peek() in "; \t\r\n#":
            shell.skip_blanks() if shell.peek() == "#" else shell.take()
        if self._end_here(("do",)):
            shell.step(2)
        if name is None:
            self._branch(_GUESS, "done")
        elif state.skipping:
            self._list("done")
        else:
            self._rounds(name, words, known=known)

    def _rounds(self, name: Word, words: list[Text], *, known: bool) -> None:
        """Carry out the rounds of `for NAME in WORDS`; the first only, where it starts the program."""
        state, shell = self.state, self.shell
        at, line = shell.at, shell.line
        known = known and all(text.known for text in words)
        if known and not words:
            self._branch(_LEAVE_OUT, "done")
            state.status = True
            return
        starts, touched = len(state.starts), state.touched
        state.touched = set()
        for number, text in enumerate(words if known else (words or [Text(GAP, (name.line,))])[:1]):
            shell.go(at, line)
            self._take_round(name, text)
            self._branch(_CARRY_OUT if known and not state.guesses else _GUESS, "done")
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
            shown = ", ".join(text.chars for text in words)[:200].replace(GAP, "...")
            held = words[number].chars.replace(GAP, "...")
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
        self._read_again += length + 100
        if self._read_again <= _MOST_READ:
            return False
        self.state.note(line, "a loop is longer than is read")
        for name in sorted(self.state.touched):
            if name in self.state.script.variables:
                self.state.lose(name, line, "is set in a loop that is longer than is read")
        return True

    def _while(self, *, until: bool) -> None:
        state, shell = self.state, self.shell
        at, line = shell.at, shell.line
        starts, touched = len(state.starts), state.touched
        state.touched = set()
        skipping = state.skipping
        while True:
            shell.go(at, line)
            self._list("do")
            mode = _mode(state.status, not until)
            self._branch(mode, "done")
            if skipping or mode != _CARRY_OUT or state.guesses:
                if mode == _GUESS and not skipping:
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
        opened = self._end_here(("do", "{"))
        shell.step(len(opened))
        end = "}" if opened == "{" else "done"
        at, start = shell.at, shell.line
        if state.skipping or state.guesses:
            for name in names_in_arithmetic(head) if not state.skipping else ():
                state.lose(name, line, "counts the rounds of a loop")
            self._branch(_GUESS, end)
            return
        starts, touched = len(state.starts), state.touched
        state.touched = set()
        self.arithmetic(parts[0], line, "((...))")
        while True:
            going = shell.calculated(parts[1], line) if parts[1].strip() else 1
            shell.go(at, start)
            self._branch(_GUESS if going is None else _CARRY_OUT if going else _LEAVE_OUT, end)
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

    def _blank_lines(self) -> None:
        while True:
            self.shell.skip_blanks()
            if self.shell.peek() != "\n":
                return
            self.shell.take()

    def _define(self, found: re.Match[str]) -> None:
        """Keep where a function's body stands, and step over it."""
        shell, state = self.shell, self.state
        shell.step(len(found[0]))
        self._blank_lines()
        function = Function(script=shell.script, lines=shell.lines, at=shell.at, line=shell.line)
        if not state.skipping:
            state.functions[found[1] or found[2]] = function
            state.status = True
        gate = self._gate
        state.skipped += 1
        self._one()
        state.skipped -= 1
        self._gate = gate

    def _double_condition(self) -> None:
        shell, state = self.shell, self.state
        shell.step(2)
        tokens: list[Token] = []
        while shell.peek():
            self._blank_lines()
            if re.compile(r"\]\](?=[\s;&|)]|\Z)").match(shell.script, shell.at):
                shell.step(2)
                break
            if found := re.compile(r"&&|\|\||[()]").match(shell.script, shell.at):
                shell.step(len(found[0]))
                tokens.append(Token(text=found[0], operator=True))
            elif (word := shell.word()) is not None:
                # Nothing is split inside [[ ]].
                text = " ".join(text.chars for text in word.fields)
                tokens.append(Token(text=text, quoted=word.quoted))
            else:
                tokens.append(Token(text=shell.take()))
        if not state.skipping:
            state.status = holds(tokens, shell.number_of, double=True)

    def _simple(self) -> None:
        shell = self.shell
        words: list[Word] = []
        assigned: list[Assigned] = []
        start = shell.at
        while True:
            shell.skip_blanks()
            char = shell.peek()
            if char in ("", "\n", ";", "&", "|", "(", ")"):
                if char == "&" and shell.peek(1) == ">":
                    self._redirection()
                    continue
                break
            if char in "<>":
                self._redirection()
                continue
            found = _ASSIGNMENT.match(shell.script, shell.at)
            if found and (not words or words[0].raw in DECLARING):
                assigned.append(self._assignment(found))
                continue
            word = shell.word()
            if word is None:
                break
            # `2>&1`: the number belongs to the redirection.
            if not (word.raw.isdecimal() and shell.peek() and shell.peek() in "<>"):
                words.append(word)
        if shell.at == start:
            shell.take()
            return
        piped = self._piped or bool(re.compile(r"\|(?!\|)").match(shell.script, shell.at))
        self.carry_out(words, assigned, piped=piped)

    def _assignment(self, found: re.Match[str]) -> Assigned:
        shell, line = self.shell, self.shell.line
        shell.step(len(found[0]))
        self.state.looked_up.clear()
        texts = shell.array() if shell.peek() == "(" else [shell.value()]
        derived = found[1] in self.state.looked_up
        return Assigned(name=found[1], texts=texts, line=line, append=bool(found[3]), index=found[2], derived=derived)

    def _redirection(self) -> None:
        shell = self.shell
        if shell.script.startswith("<<<", shell.at):
            shell.step(3)
        elif found := _HEREDOC.match(shell.script, shell.at):
            shell.step(len(found[0]))
            shell.heredocs.append((found[3], bool(found[1])))
            return
        elif found := re.compile(r"[<>]\(").match(shell.script, shell.at):
            shell.take()
            shell.to_bracket("(", ")")
            return
        while shell.peek() and shell.peek() in "<>&|":
            shell.take()
        shell.word()

    def _skip_heredocs(self) -> None:
        shell = self.shell
        for end, tabs in shell.heredocs:
            while shell.peek():
                start = shell.at
                while shell.peek() not in ("", "\n"):
                    shell.take()
                line = shell.script[start : shell.at].rstrip("\r")
                shell.take()
                if (line.lstrip("\t") if tabs else line) == end:
                    break
        shell.heredocs.clear()
