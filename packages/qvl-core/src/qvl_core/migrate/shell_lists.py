"""Lists of commands: what stands between line ends, semicolons, && and ||, and simple commands with redirections."""

from __future__ import annotations

import re
from collections.abc import Callable

from qvl_core.migrate.shell_assignments import Assigned
from qvl_core.migrate.shell_builtins import DECLARING
from qvl_core.migrate.shell_commands import Commands
from qvl_core.migrate.shell_conditions import Token, holds
from qvl_core.migrate.shell_state import State
from qvl_core.migrate.shell_text import Text, Word
from qvl_core.migrate.shell_words import Expansion

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(?:\[([^\]\s]*)\])?(\+?)=")
RESERVED = re.compile(
    r"(if|then|else|elif|fi|for|while|until|do|done|case|esac|select|function|\{|\}|!|time|coproc)(?=[\s;&|()<>]|\Z)"
)
ARITHMETIC = re.compile(r"\(\(((?:[^()\n]|\((?:[^()\n]|\([^()\n]*\))*\))*)\)\)")
_HEREDOC = re.compile(r"<<(-?)[ \t]*(['\"\\]?)(\w+)['\"]?")
_DEEPEST = 60
# How a command is taken: its condition holds, does not hold, or is not known.
CARRY_OUT, LEAVE_OUT, GUESS = "carry out", "leave out", "guess"


def mode_of(status: bool | None, wanted: bool = True) -> str:
    """Tell how a command behind a condition is taken, which has to end as wanted."""
    return GUESS if status is None else CARRY_OUT if status == wanted else LEAVE_OUT


class Lists(Commands):
    """Reads lists of commands; compound ones are the business of `Flow`."""

    def __init__(self, text: str, state: State, beside: Callable[[str], str | None]) -> None:
        super().__init__(text, state, beside)
        self._depth = 0
        # How the command behind && or || is taken.
        self.gate = CARRY_OUT
        self.piped_here = False

    def run(self) -> None:
        while self.shell.peek():
            self.list_of()
            if self.shell.peek():
                # A `)`, `done` or `fi` too many.
                self.shell.take()

    def one(self) -> None:
        """Carry out one command, simple or compound, with its redirections."""
        raise NotImplementedError

    def list_of(self, *ends: str) -> str:
        """Carry out commands up to one of these words; give which, "" at the end of the text."""
        self.gate, piped_before = CARRY_OUT, self.piped_here
        self.piped_here = False
        self._depth += 1
        shell = self.shell
        found = ""
        while True:
            shell.skip_blanks()
            if not shell.peek():
                break
            if found := self.end_here(ends):
                shell.step(len(found))
                break
            if self._depth > _DEEPEST:
                self.state.note(shell.line, f"more than {_DEEPEST} conditions inside each other are not followed")
                shell.at = len(shell.script)
                break
            self._step()
        self._depth -= 1
        self.gate, self.piped_here = CARRY_OUT, piped_before
        return found

    def end_here(self, ends: tuple[str, ...]) -> str:
        shell = self.shell
        for end in ends:
            if shell.script.startswith(end, shell.at):
                found = RESERVED.match(shell.script, shell.at)
                if (not end[0].isalpha() and end != "}") or (found and found[1] == end):
                    return end
        return ""

    def _step(self) -> None:
        shell, state = self.shell, self.state
        char = shell.peek()
        if char == "\n":
            shell.take()
            self.gate, self.piped_here = CARRY_OUT, False
            self._skip_heredocs()
        elif shell.script.startswith(("&&", "||"), shell.at):
            self._connect(shell.script[shell.at : shell.at + 2])
        elif char in ";&":
            shell.take()
            if char == "&" and state.status is not None:
                state.status = True
            self.gate, self.piped_here = CARRY_OUT, False
        elif char == "|":
            shell.step(2 if shell.peek(1) == "&" else 1)
            self.piped_here = True
        elif char == ")":
            shell.take()
        else:
            self._gated(self.one)

    def _connect(self, sign: str) -> None:
        self.shell.step(2)
        self.piped_here = False
        self.gate = mode_of(self.state.status, sign == "&&")
        # A command may stand on the next line.
        while True:
            self.shell.skip_blanks()
            if self.shell.peek() != "\n":
                return
            self.shell.take()
            self._skip_heredocs()

    def _gated(self, command: Callable[[], None]) -> None:
        state, status = self.state, self.state.status
        gate = self.gate
        state.skipped += gate == LEAVE_OUT
        state.guesses += gate == GUESS
        command()
        state.guesses -= gate == GUESS
        state.skipped -= gate == LEAVE_OUT
        self.gate = gate
        if gate == LEAVE_OUT:
            state.status = status
        elif gate == GUESS:
            state.status = None

    def branch(self, mode: str, *ends: str) -> str:
        """Carry out, leave out or guess a list of commands."""
        state, status = self.state, self.state.status
        state.skipped += mode == LEAVE_OUT
        state.guesses += mode == GUESS
        end = self.list_of(*ends)
        state.guesses -= mode == GUESS
        state.skipped -= mode == LEAVE_OUT
        if mode != CARRY_OUT:
            state.status = None if mode == GUESS else status
        return end

    def blank_lines(self) -> None:
        while True:
            self.shell.skip_blanks()
            if self.shell.peek() != "\n":
                return
            self.shell.take()

    def simple(self) -> None:
        shell = self.shell
        words: list[Word] = []
        assigned: list[Assigned] = []
        start = shell.at
        while True:
            shell.skip_blanks()
            char = shell.peek()
            if char in ("", "\n", ";", "&", "|", "(", ")"):
                if char == "&" and shell.peek(1) == ">":
                    self.redirection()
                    continue
                break
            if char in "<>":
                self.redirection()
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
        if words and words[0].raw == "read" and not self.state.skipping and self._reads_document(words, assigned):
            return
        piped = self.piped_here or bool(re.compile(r"\|(?!\|)").match(shell.script, shell.at))
        self.carry_out(words, assigned, piped=piped)

    def _reads_document(self, words: list[Word], assigned: list[Assigned]) -> bool:
        """Do `read -r -d '' NAME <<EOF`, which takes all of the document; tell whether it was that."""
        shell = self.shell
        texts = [text.chars for word in words[1:] for text in word.fields]
        if len(shell.heredocs) != 1 or sorted(texts[:-1]) not in (
            ["", "-d", "-r"],
            ["", "-d"],
            ["", "-rd"],
            ["\0", "-rd"],
        ):
            return False
        end, tabs, expanded = shell.heredocs[0]
        begin = shell.script.find("\n", shell.at) + 1
        found = re.compile(rf"(.*?)^{chr(92) + 't*' if tabs else ''}{re.escape(end)}\r?$", re.DOTALL | re.MULTILINE)
        match = found.match(shell.script, begin) if begin else None
        if match is None or shell.lines or tabs or not re.fullmatch(r"[A-Za-z_]\w*", texts[-1]):
            return False
        line = shell.line + shell.script.count("\n", shell.at, begin)
        document = Expansion(script=match[1], around=self.around, line=line).document(expanded=expanded)
        whole = any(one.name == "IFS" for one in assigned)
        start = 0 if whole else len(document.chars) - len(document.chars.lstrip())
        stop = len(document.chars) if whole else max(start, len(document.chars.rstrip()))
        self.state.assign(texts[-1], [Text(document.chars[start:stop], document.lines[start:stop])], words[0].line)
        # It ends at the end of its input, and says so.
        self.state.status = False
        return True

    def _assignment(self, found: re.Match[str]) -> Assigned:
        shell, line = self.shell, self.shell.line
        shell.step(len(found[0]))
        self.state.looked_up.clear()
        items = shell.peek() == "("
        texts = shell.array() if items else [shell.value()]
        derived = found[1] in self.state.looked_up
        return Assigned(
            name=found[1],
            texts=texts,
            line=line,
            append=bool(found[3]),
            index=found[2],
            derived=derived,
            items=items,
        )

    def redirection(self) -> None:
        shell = self.shell
        if shell.script.startswith("<<<", shell.at):
            shell.step(3)
        elif found := _HEREDOC.match(shell.script, shell.at):
            shell.step(len(found[0]))
            shell.heredocs.append((found[3], bool(found[1]), not found[2]))
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
        for end, tabs, _ in shell.heredocs:
            while shell.peek():
                start = shell.at
                while shell.peek() not in ("", "\n"):
                    shell.take()
                line = shell.script[start : shell.at].rstrip("\r")
                shell.take()
                if (line.lstrip("\t") if tabs else line) == end:
                    break
        shell.heredocs.clear()

    def double_condition(self) -> None:
        shell, state = self.shell, self.state
        shell.step(2)
        tokens: list[Token] = []
        while shell.peek():
            self.blank_lines()
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
            state.status = holds(tokens, shell.number_of, double=True, work=state.work)
