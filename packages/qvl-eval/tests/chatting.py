"""`qvl chat` as a process without a model: answers are known, and at the end it says what it was asked."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from qvl_core.generate import GenerationOptions
from qvl_eval.answers.driver import Driver
from qvl_eval.chat.terminal import Chat, converse
from running_server import STOP, FakeScheduler, tiny_processor


def main() -> int:
    """Talk."""
    is_endless = "--endless" in sys.argv
    scheduler = FakeScheduler("word " if is_endless else "Hello 你好 👋", endless=is_endless)
    most = 100_000 if is_endless else 64
    loaded: Any = SimpleNamespace(
        processor=tiny_processor(), options=GenerationOptions(max_new_tokens=most, eos_token_id=(STOP,))
    )
    chat = Chat(loaded, Driver(scheduler, loaded.processor.chat.decode), window=2 * most + 4096)
    asked = []
    answered = chat.conversation.answered

    def noting(text: str, answer: str) -> None:
        asked.append(text)
        answered(text, answer)

    chat.conversation.answered = noting  # type: ignore[method-assign]
    code = converse(chat)
    print("asked:", asked)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
