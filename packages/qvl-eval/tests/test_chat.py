"""`qvl chat` line by line, and once with a real (random) tiny model."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core.cli.app import main
from qvl_core.generate import GenerationOptions
from qvl_eval.answers.driver import Driver
from qvl_eval.chat.terminal import Chat, shown
from running_server import STOP, FakeScheduler, png, tiny_processor

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


@needs_mindspore
def test_a_conversation_with_a_model_ends_at_the_end_of_its_input(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Which?", "/reset", "Which?"])

    def typed(_: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", typed)
    assert main(["chat", str(write_recipe("infer"))]) == 0
    greeting, _, said = capsys.readouterr().out.partition("\n")
    first, _, second = said.partition("everything said is forgotten\n")
    assert "Ctrl-D leaves" in greeting
    assert first
    assert second == first + "\n"
