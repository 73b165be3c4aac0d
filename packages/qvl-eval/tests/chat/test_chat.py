"""`qvl chat` line by line, and once with a real (random) tiny model."""

from __future__ import annotations

import fcntl
import importlib.util
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core.cli.app import main
from qvl_core.generate import GenerationOptions
from qvl_eval.answers.driver import Driver
from qvl_eval.chat.lines import NoTextError, joined
from qvl_eval.chat.terminal import Chat
from qvl_eval.terminal_text import printed, shown
from running_server import STOP, WAIT_S, FakeScheduler, png, tiny_processor

needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="mindspore is not installed")


class Session:
    """A chat, what it has written, and the prompts that it asked."""

    def __init__(self, scheduler: FakeScheduler) -> None:
        processor = tiny_processor()
        options = GenerationOptions(max_new_tokens=64, eos_token_id=(STOP,))
        loaded: Any = SimpleNamespace(processor=processor, options=options)
        self.scheduler = scheduler
        self.chat = Chat(loaded, Driver(scheduler, processor.chat.decode), window=4096)
        self.written: list[str] = []

    def say(self, line: str) -> str:
        before = len(self.written)
        self.chat.take(line, self.written.append)
        return "".join(self.written[before:])

    def asked(self) -> str:
        return tiny_processor().chat.decode(self.scheduler.prompts[-1].input_ids)


@pytest.fixture
def session() -> Session:
    return Session(FakeScheduler("Hello 你好"))


def test_answers_grow_and_history_is_kept(session: Session) -> None:
    assert session.say("Hi") == "Hello 你好\n"
    assert len([piece for piece in session.written if piece]) > 3
    session.say("And now?")
    assert session.asked().index("Hi") < session.asked().index("你好") < session.asked().index("And now?")
    assert session.chat.conversation.turns == 2


def test_reset_forgets_what_was_said_but_not_the_system_prompt(session: Session) -> None:
    session.say("/system Be brief.")
    session.say("First")
    session.say("/reset")
    session.say("Second")
    assert "First" not in session.asked()
    assert "Be brief." in session.asked()
    session.say("/system")
    session.say("Third")
    assert "Be brief." not in session.asked()


def test_an_image_goes_with_the_next_question_and_stays_in_the_history(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(png())
    assert "goes with the next question" in session.say(f"/image {path}")
    session.say("What?")
    path.unlink()
    session.say("Sure?")
    assert len(session.scheduler.prompts[-1].grids) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/image", "/image FILE"),
        ("/image none.png", "there is no such file"),
        ("/video none.mp4", "there is no such file"),
        ("/help", "Ctrl-D leaves"),
        ("/what\x1b[2J", "there is no /what\\x1b[2J"),
        ("", ""),
    ],
)
def test_other_lines_ask_nothing(session: Session, line: str, expected: str) -> None:
    assert expected in session.say(line)
    assert session.scheduler.prompts == []


def test_a_question_may_start_with_a_slash(session: Session) -> None:
    session.say("//etc is what?")
    assert "/etc is what?" in session.asked()
    assert "//etc" not in session.asked()


def test_a_question_that_does_not_fit_is_told_and_not_kept(session: Session) -> None:
    assert "the window holds" in session.say("word " * 6000)
    assert session.chat.conversation.turns == 0
    assert session.say("Hi").startswith("Hello")


def test_control_characters_of_a_model_are_shown_not_obeyed() -> None:
    assert shown("a\x1b[31m\r\nb\tc") == "a\\x1b[31m\\r\nb\tc"


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, "a\\x1b[31mb"), (False, "a\x1b[31mb")])
def test_an_answer_is_escaped_for_a_terminal_and_exact_for_a_pipe(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, expected: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert printed("a\x1b[31mb") == expected


def test_ctrl_c_stops_an_answer_and_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(FakeScheduler("word ", endless=True))
    step = session.scheduler.step
    steps = []

    def interrupting() -> Any:
        steps.append(step())
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        return steps[-1]

    monkeypatch.setattr(session.scheduler, "step", interrupting)
    before = signal.getsignal(signal.SIGINT)
    assert session.say("Hi").endswith("[stopped]\n")
    assert signal.getsignal(signal.SIGINT) is before
    assert len(steps) == 5
    assert session.chat.conversation.turns == 1
    assert session.scheduler.cancels.qsize() == 1


@pytest.mark.parametrize("typed", ["{}", '"{}"', "'{}'", "{escaped}"])
def test_a_path_may_be_quoted_as_terminals_do(session: Session, tmp_path: Path, typed: str) -> None:
    path = tmp_path / "a picture (1)'s.png" if typed in ("{}", '"{}"') else tmp_path / "a picture (1).png"
    path.write_bytes(png())
    escaped = str(path).replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)")
    found = session.say("/image " + typed.format(path, escaped=escaped))
    assert found == f"{path.name} goes with the next question\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~nobody-of-this-name/a.png", "is no path"),
        ("'a.png", "is no path"),
        ("x" * 5000, "is no path: File name too long"),
        ("a\0b.png", "NUL character"),
        ("/dev/zero", "is a character device"),
        (".", "is a folder"),
        ("broken.png", "is not a"),
        ("cut.png", "cannot be"),
        ("empty.png", "0 bytes"),
        ("\x1b[2J.png", "\\x1b[2J"),
    ],
)
def test_what_is_no_image_is_told_and_the_conversation_goes_on(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(png()[:60])
    (tmp_path / "empty.png").touch()
    assert not session.chat.take(f"/image {path}", session.written.append)
    assert expected in session.written[-1]
    assert "\x1b" not in session.written[-1]
    session.say("Hi")
    assert len(session.scheduler.prompts[-1].grids) == 0


def test_a_full_window_says_how_to_go_on(session: Session) -> None:
    session.say("word " * 3000)
    assert "/reset forgets the 1 questions before" in session.say("word " * 3000)
    session.say("/reset")
    assert session.say("word " * 3000).startswith("Hello")


def test_blanks_and_joiners_of_other_scripts_are_shown_as_they_are() -> None:
    text = "你\u3000好 50\u00a0% 👩\u200d💻 می\u200cخواهم"
    assert shown(text) == text
    # These turn the direction of what follows.
    assert shown("a\u202eb\u2066c") == "a\\u202eb\\u2066c"


def test_lines_between_three_quotes_are_one() -> None:
    source = ["a", '"""b', "c", 'd"""', '"""', "e", '"""', '"""f"""', 'g "" h', '"""i']
    assert list(joined(iter(source))) == ["a", "b\nc\nd", "\ne\n", "f", 'g "" h', "i"]


def test_what_is_no_text_is_told(session: Session) -> None:
    for line in (NoTextError(), "a\udcff"):
        assert not session.chat.take(line, session.written.append)
        assert session.written[-1] == "the line is not UTF-8 text\n"
    assert session.scheduler.prompts == []


def test_ctrl_c_while_a_question_is_made_ready_stops_it_and_not_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(FakeScheduler("word ", endless=True))
    made = session.chat._job

    def interrupted(question: str) -> Any:
        signal.raise_signal(signal.SIGINT)
        return made(question)

    monkeypatch.setattr(session.chat, "_job", interrupted)
    assert "[stopped]" in session.say("Hi")
    assert session.chat.conversation.turns == 0
    assert session.scheduler.stepping.qsize() == 0


class Terminal:
    """`qvl chat` in a pseudo-terminal, over the scheduler that needs no model. A context manager."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.seen = ""

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        script = Path(__file__).parents[1].joinpath("chatting.py")
        environment = {**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(script), *self._words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C reaches who has the terminal.
        )
        os.close(slave)
        self.greeting = self.wait_for("> ")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C at a prompt until a text is seen.

        Once is not always enough: Python notices a signal that comes after the prompt was written and before it waits
        for keys with the next key only (`readline_until_enter_or_signal` has a `select` without a limit).
        """
        while text not in self.seen:
            self.type("\x03")
            while text not in self.seen and select.select([self._master], [], [], 2.0)[0]:
                self.seen += os.read(self._master, 65_536).decode(errors="replace")
        self.wait_for(text)

    def wait_for(self, text: str) -> str:
        """Read until a text was seen since the last one, and give what came before it."""
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], WAIT_S)
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self._master, 65_536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def wait(self) -> int:
        with suppress(OSError):  # How a terminal says that nobody has it any more.
            while part := os.read(self._master, 65_536):
                self.seen += part.decode(errors="replace")
        return self._process.wait(WAIT_S)


def test_a_terminal_has_history_and_ends_with_ctrl_d() -> None:
    with Terminal() as terminal:
        terminal.type("First\r")
        terminal.wait_for("Hello 你好 👋\r\n")
        terminal.wait_for("> ")
        # Up fetches the line before; the answer's question says what was asked.
        terminal.type("\x1b[A again\r")
        terminal.wait_for("First again")
        terminal.wait_for("Hello 你好 👋\r\n")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.wait() == 0
        assert "asked: ['First', 'First again']" in terminal.seen


def test_a_pasted_text_is_one_question() -> None:
    pytest.importorskip("readline", reason="this Python has no line editor")
    with Terminal() as terminal:
        # What a terminal has to be told, to say where a pasted text begins and ends.
        assert "\x1b[?2004h" in terminal.greeting
        terminal.type("\x1b[200~one\ntwo\nthree\x1b[201~\r")
        terminal.wait_for("Hello")
        terminal.wait_for("> ")
        terminal.type('"""four\r')
        terminal.wait_for("... ")
        terminal.type('five"""\r')
        terminal.wait_for("Hello")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.wait() == 0
        assert r"asked: ['one\ntwo\nthree', 'four\nfive']" in terminal.seen


def test_ctrl_c_stops_an_answer_or_what_is_typed_and_the_chat_goes_on() -> None:
    with Terminal("--endless") as terminal:
        terminal.type("Hi\r")
        terminal.wait_for("word word")
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        terminal.wait_for("> ")
        terminal.type('"""half\r')
        terminal.wait_for("... ")
        terminal.interrupt_until("Ctrl-D leaves")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.wait() == 0
        assert "asked: ['Hi']" in terminal.seen


def piped(data: bytes) -> subprocess.CompletedProcess[bytes]:
    script = Path(__file__).parents[1].joinpath("chatting.py")
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, str(script)], input=data, capture_output=True, env=environment, timeout=WAIT_S
    )


def test_a_pipe_gets_answers_and_nothing_else() -> None:
    found = piped("One 你\r\n\nTwo".encode())
    assert found.stdout.decode().splitlines()[:2] == ["Hello 你好 👋", "Hello 你好 👋"]
    assert "asked: ['One 你', 'Two']" in found.stdout.decode()
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_pipe_with_a_line_that_cannot_be_done_goes_on_and_ends_with_2() -> None:
    found = piped(b"One\n\xff\xfe\n/image none.png\nTwo\n")
    lines = found.stdout.decode().splitlines()
    assert lines[1] == "the line is not UTF-8 text"
    assert "there is no such file" in lines[2]
    assert "asked: ['One', 'Two']" in lines[4]
    assert found.returncode == 2


@needs_mindspore
def test_a_conversation_with_a_model_ends_at_the_end_of_its_input(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Which?\n/reset\nWhich?\n")))
    assert main(["chat", str(write_recipe("infer"))]) == 0
    first, _, second = capsys.readouterr().out.partition("everything said is forgotten\n")
    assert first
    assert second == first
