"""What a scheduler takes and gives: requests with options of their own, and an event for every new token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_core.batch import Batch
from qvl_core.errors import RunError
from qvl_core.generate.options import GenerationOptions

Finished = Literal["stop", "length", "cancelled"]

# Stands in the event of a request that was cancelled, which has no token.
NO_TOKEN = -1


class ScoresError(RunError):
    """Scores of a next token that are NaN or infinite. The model and new schedulers of it may be used on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt to be continued. `prompt` is a batch of one sample; its labels are not read."""

    prompt: Batch
    options: GenerationOptions
    request_id: str
    row: int = 0
    """Random numbers come from stream (options.seed, row): the row of a batch that this request is one of."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A new token of a request, the `text_index`-th of its answer, counted from 0.

    `finished` tells why it is the last: "stop" (it is a stop token), "length" (`max_new_tokens` or the model's window
    is reached) or "cancelled" (the token is NO_TOKEN).
    """

    request_id: str
    token: int
    text_index: int
    finished: Finished | None = None
