"""Lines from the terminal to answers that are shown while they grow."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer
from qvl_core.errors import InputError

from qvl_eval.answers.driver import Driver, make_driver, window_of
from qvl_eval.answers.job import make_job
from qvl_eval.answers.opening import AnsweringModel, open_model
from qvl_eval.chat.conversation import Conversation
from qvl_eval.questions import is_text

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import StartWorkers

HELP = """/image FILE    show an image with the next question
/video FILE    show a video with the next question
/system TEXT   set the system prompt; /system alone takes it back
/reset         forget what was said
/help          this
A question that starts with a slash: write two. Ctrl-C stops an answer, Ctrl-D leaves."""

Write = Callable[[str], None]


def talk(recipe: Recipe, *, system: str | None = None, start_workers: StartWorkers | None = None) -> int:
    """Talk until the end of the input and give the exit code 0. Raises InputError, NotInstalledError.

    `start_workers` is there where the layout has several processes.
    """
    with open_model(recipe, start_workers) as loaded:
        return _talk(loaded, system)


def _talk(loaded: AnsweringModel, system: str | None) -> int:
    window = window_of(loaded)
    chat = Chat(loaded, make_driver(loaded, slots=1, max_tokens=window), window=window, system=system)
    with contextlib.suppress(ImportError):
        # Editing and history of the line that is typed.
        import readline  # noqa: F401
    typer.echo("Ask; /help lists commands, Ctrl-D leaves.")
    while True:
        try:
            line = input("> ")
        except EOFError:
            typer.echo()
            return 0
        except KeyboardInterrupt:
            typer.echo("\nCtrl-D leaves")
            continue
        chat.take(line, _write)


class Chat:
    """Takes one line after the other. One driver with one slot answers."""

    def __init__(self, loaded: AnsweringModel, driver: Driver, *, window: int, system: str | None = None) -> None:
        self._loaded = loaded
        self._driver = driver
        self._window = window
        self._asked = 0
        self.conversation = Conversation(loaded.processor, system)

    def take(self, line: str, write: Write) -> None:
        """Do what a line says: a command, or a question. What is wrong with it is written, nothing is raised."""
        line = line.strip()
        try:
            if line.startswith("/") and not line.startswith("//"):
                write(self._command(line) + "\n")
            elif line:
                self._answer(line[1:] if line.startswith("//") else line, write)
        except InputError as error:
            write("\n".join(problem.message for problem in error.problems) + "\n")

    def _command(self, line: str) -> str:
        """Do a command and give what to say."""
        word, _, rest = line.partition(" ")
        rest, conversation = rest.strip(), self.conversation
        if word in ("/image", "/video"):
            if not rest:
                return f"{word} FILE"
            path = Path(rest).expanduser()
            conversation.add_image(path) if word == "/image" else conversation.add_video(path)
            return f"{path.name} goes with the next question"
        if word == "/system":
            conversation.system = rest or None
            return "the system prompt is set" if rest else "the system prompt is the checkpoint's own"
        if word == "/reset":
            conversation.reset()
            return "everything said is forgotten"
        return HELP if word == "/help" else f"there is no {shown(word)}; /help lists the commands"

    def _answer(self, question: str, write: Write) -> None:
        if not is_text(question):
            write("the line is not UTF-8 text\n")
            return
        self._asked += 1
        job = make_job(
            self._loaded.processor,
            self.conversation.asked(question),
            self._loaded.options,
            job_id=str(self._asked),
            window=self._window,
            where="chat",
        )
        self._driver.submit(job)
        texts: list[str] = []
        with _interrupts() as is_stopped:
            while self._driver.jobs:
                for piece in self._driver.step():
                    texts.append(piece.text)
                    write(shown(piece.text))
                if is_stopped():
                    self._driver.cancel(job.job_id)
        answer = "".join(texts).strip()
        write(" [stopped]\n" if is_stopped() else "\n")
        if answer:
            self.conversation.answered(question, answer)
        else:
            write("[no answer; the question is not kept]\n")


def shown(text: str) -> str:
    """Give text with control characters escaped: what a model says must not move the cursor or rename the window."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


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
