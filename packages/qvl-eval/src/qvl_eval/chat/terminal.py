"""Lines from the terminal to answers that are shown while they grow."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer
from qvl_core.errors import EXIT_DONE, EXIT_WRONG_INPUT, DataError, InputError, Problem
from qvl_core.input_file import printable

from qvl_eval.answers.driver import Driver, make_driver, window_of
from qvl_eval.answers.job import Job, make_job
from qvl_eval.answers.opening import AnsweringModel, open_model
from qvl_eval.chat.conversation import Conversation
from qvl_eval.chat.lines import Line, NoTextError, lines
from qvl_eval.questions import is_text

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import StartWorkers

HELP = """/image FILE    show an image with the next question
/video FILE    show a video with the next question
/system TEXT   set the system prompt; /system alone takes it back
/reset         forget what was said
/help          this
A question of several lines: between \"\"\" and \"\"\". One that starts with a slash: write two.
Ctrl-C stops an answer, Ctrl-D leaves."""
GREETING = "Ask; /help lists commands, Ctrl-D leaves."

Write = Callable[[str], None]
# Characters that are no sign of their own but that words and emoji of many languages are written with.
_JOINERS = "\u200c\u200d"


def talk(recipe: Recipe, *, system: str | None = None, start_workers: StartWorkers | None = None) -> int:
    """Talk until the end of the input and give the exit code of `converse`. Raises InputError, NotInstalledError.

    `start_workers` is there where the layout has several processes.
    """
    with open_model(recipe, start_workers) as loaded:
        return _talk(loaded, system)


def _talk(loaded: AnsweringModel, system: str | None) -> int:
    window = window_of(loaded)
    chat = Chat(loaded, make_driver(loaded, slots=1, max_tokens=window), window=window, system=system)
    return converse(chat)


def converse(chat: Chat) -> int:
    """Take every line of standard input. Gives 0, and for a pipe 2 where a line could not be done."""
    has_failed = False
    for line in lines(greeting=GREETING):
        has_failed |= not chat.take(line, _write)
    return EXIT_WRONG_INPUT if has_failed and not sys.stdin.isatty() else EXIT_DONE


class Chat:
    """Takes one line after the other. One driver with one slot answers."""

    def __init__(self, loaded: AnsweringModel, driver: Driver, *, window: int, system: str | None = None) -> None:
        self._loaded = loaded
        self._driver = driver
        self._window = window
        self._asked = 0
        self.conversation = Conversation(loaded.processor, system)

    def take(self, line: Line, write: Write) -> bool:
        """Do what a line says, a command or a question. What is wrong is written; gives whether all was well."""
        try:
            if isinstance(line, NoTextError) or not is_text(line):
                raise _problem("the line is not UTF-8 text")
            line = line.strip()
            if line.startswith("/") and not line.startswith("//"):
                write(self._command(line) + "\n")
            elif line:
                self._answer(line[1:] if line.startswith("//") else line, write)
        except InputError as error:
            write("\n".join(shown(problem.message) for problem in error.problems) + "\n")
            return False
        return True

    def _command(self, line: str) -> str:
        """Do a command and give what to say."""
        word, _, rest = line.partition(" ")
        rest, conversation = rest.strip(), self.conversation
        if word in ("/image", "/video"):
            if not rest:
                return f"{word} FILE"
            path = path_of(rest)
            conversation.add_image(path) if word == "/image" else conversation.add_video(path)
            return f"{shown(path.name)} goes with the next question"
        if word == "/system":
            conversation.system = rest or None
            return "the system prompt is set" if rest else "the system prompt is the checkpoint's own"
        if word == "/reset":
            conversation.reset()
            return "everything said is forgotten"
        if word == "/help":
            return HELP
        raise _problem(f"there is no {word}; /help lists the commands")

    def _answer(self, question: str, write: Write) -> None:
        self._asked += 1
        texts: list[str] = []
        with _interrupts() as is_stopped:
            job = self._job(question)
            self._driver.submit(job)
            while self._driver.jobs:
                if is_stopped():
                    self._driver.cancel(job.job_id)
                    break
                for piece in self._driver.step():
                    texts.append(piece.text)
                    write(shown(piece.text))
        answer = "".join(texts).strip()
        write(" [stopped]\n" if is_stopped() else "\n")
        if answer:
            self.conversation.answered(question, answer)
        else:
            write("[no answer; the question is not kept]\n")

    def _job(self, question: str) -> Job:
        """Make the question and all before it ready. Raises InputError."""
        try:
            return make_job(
                self._loaded.processor,
                self.conversation.asked(question),
                self._loaded.options,
                job_id=str(self._asked),
                window=self._window,
                where="chat",
            )
        except InputError as error:
            turns = self.conversation.turns
            if turns:
                raise _problem(f"{error.problems[0].message}; /reset forgets the {turns} questions before") from None
            raise


def path_of(written: str) -> Path:
    """Give the path of a file that was typed, or dragged into the terminal, which puts quotes or backslashes around it.

    Raises DataError.
    """
    try:
        as_it_is = Path(written).expanduser()
        if as_it_is.exists():
            return as_it_is
        words = shlex.split(written)
        return Path(words[0]).expanduser() if len(words) == 1 else as_it_is
    except (OSError, RuntimeError, ValueError) as error:
        # A name too long; `~` of nobody; a quote that is not closed, a NUL.
        reason = getattr(error, "strerror", None) or str(error)
        raise _problem(f"{printable(written)} is no path: {reason}") from None


def shown(text: str) -> str:
    """Give text with control characters escaped: what a model says must not move the cursor or rename the window."""
    return "".join(char if _is_harmless(char) else ascii(char)[1:-1] for char in text)


def _is_harmless(char: str) -> bool:
    # Blanks of other widths, as in Chinese and French texts, are not "printable".
    return char.isprintable() or char in "\n\t" or char in _JOINERS or unicodedata.category(char) == "Zs"


def _problem(message: str) -> DataError:
    return DataError(Problem(where="chat", message=message))


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a flag, so that it never falls into the middle of a step; a second one ends the command."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _write(text: str) -> None:
    typer.echo(text, nl=False)
