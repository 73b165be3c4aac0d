"""A question on its way through the scheduler, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from qvl_core.batch import Batch
    from qvl_core.generate import GenerationOptions
    from qvl_data.processor import Processor
    from qvl_data.prompt import Message

Finish = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One question as the model takes it, how to answer it, and the strings that end the answer.

    Random numbers come from stream (options.seed, row).
    """

    job_id: str
    prompt: Batch
    options: GenerationOptions
    stops: tuple[str, ...] = ()
    row: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Count the tokens of the question, those of its media included."""
        return int(self.prompt.tokens)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of an answer's text. The last one says why the answer ended; `new_tokens` counts all until now.

    `failure` is what went wrong, for people, where `finish` is "failed".
    """

    job_id: str
    text: str
    new_tokens: int
    finish: Finish | None = None
    failure: str = ""


class Scheduler(Protocol):
    """What is needed of `qvl_core.generate.scheduler.Scheduler`. One thread owns it."""

    def submit(self, request: Any) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def step(self) -> Sequence[Any]: ...
    @property
    def is_idle(self) -> bool: ...
    @property
    def active(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def tokens_held(self) -> int: ...


def make_job(
    processor: Processor,
    messages: Sequence[Message],
    options: GenerationOptions,
    *,
    job_id: str,
    window: int,
    stops: Sequence[str] = (),
    where: str = "prompt",
    shorten: bool = True,
    row: int = 0,
) -> Job:
    """Read the media, tokenise, and bound the answer by what the window leaves.

    Without `shorten` an answer that may not fit is refused. Raises DataError naming `where`.
    """
    from qvl_core.errors import DataError, Problem
    from qvl_data import collate
    from qvl_data.prompt import build_conversation

    from qvl_eval.questions.question_file import is_text

    if not all(is_text(part) for message in messages for part in message.parts if isinstance(part, str)):
        # Of a command line: bytes that are not UTF-8 come as such halves.
        raise DataError(Problem(where=where, message="holds half of a surrogate pair, or bytes that are not UTF-8"))
    sample = build_conversation(processor, messages, sample_id=where)
    tokens = len(sample.input_ids)
    left = window - tokens
    if left < 1 or (options.max_new_tokens > left and not shorten):
        wanted = 1 if left < 1 else options.max_new_tokens
        message = f"the prompt has {tokens:,} tokens and the answer may have {wanted:,}; the window holds {window:,}"
        fix = "shorten it, show fewer or smaller images (data.image.max_pixels), or ask for a shorter answer"
        raise DataError(Problem(where=where, message=message, fix=fix))
    if options.max_new_tokens > left:
        options = replace(options, max_new_tokens=left)
    prompt = collate([sample], processor.spec)
    return Job(job_id=job_id, prompt=prompt, options=options, stops=tuple(stops), row=row)
