"""What was said so far, ready to be answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, Problem
from qvl_core.geometry import GeometryError

if TYPE_CHECKING:
    from qvl_data.processor import Processor
    from qvl_data.prompt import Message, Part


class Conversation:
    """A system prompt, questions with their answers, and the media that the next question is about.

    Media are read when they are added, once: the next turns take their patches.
    """

    def __init__(self, processor: Processor, system: str | None = None) -> None:
        self._processor = processor
        self.system = system
        self._said: list[Message] = []
        self._media: list[Part] = []

    @property
    def turns(self) -> int:
        """Count the questions that were answered."""
        return len(self._said) // 2

    def add_image(self, path: Path) -> None:
        """Show an image with the next question. Raises DataError."""
        from qvl_data.prompt import PromptImage

        self._add(PromptImage(source=path))

    def add_video(self, path: Path) -> None:
        """Show a video with the next question. Raises DataError."""
        from qvl_data.prompt import PromptVideo

        self._add(PromptVideo(path=path))

    def asked(self, text: str) -> tuple[Message, ...]:
        """Give everything said so far and the next question; nothing is kept of it before it is answered."""
        from qvl_data.prompt import Message

        system = () if self.system is None else (Message(role="system", parts=(self.system,)),)
        return (*system, *self._said, Message(role="user", parts=(*self._media, text)))

    def answered(self, text: str, answer: str) -> None:
        """Keep a question with its answer."""
        from qvl_data.prompt import Message

        question = self.asked(text)[-1]
        self._said += [question, Message(role="assistant", parts=(answer,))]
        self._media = []

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self._said, self._media = [], []

    def _add(self, part: Part) -> None:
        from qvl_data.media.error import MediaError
        from qvl_data.prompt import Message, ready_message

        try:
            self._media += ready_message(Message(role="user", parts=(part,)), self._processor).parts
        except (MediaError, GeometryError) as error:
            raise DataError(Problem(where="chat", message=str(error))) from None
