"""Generate for one batch of prompts: all its rows as requests of one scheduler.

Legend: B sequences, T padded prompt length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvl_core.answer_sizes import blocks
from qvl_core.generate.engine import give_back, take_engine
from qvl_core.generate.options import GenerationOptions
from qvl_core.generate.prompts import split_prompts
from qvl_core.generate.request import Request
from qvl_core.generate.scheduler import Scheduler
from qvl_core.model.inputs import Prompt
from qvl_core.model.qwen25vl import Qwen25VL


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One new token for each sequence; padding where `active` is false, because the sequence had stopped before."""

    tokens: NDArray[np.int32]  # [B]
    active: NDArray[np.bool_]  # [B]


def stream_tokens(model: Qwen25VL, prompt: Prompt, options: GenerationOptions) -> Iterator[Step]:
    """Yield steps until every sequence has met a stop token or `max_new_tokens` are there.

    Raises InputError if a prompt is as long as the model's window.
    """
    prompts = split_prompts(prompt.batch, model.spec)
    room = len(prompts) * blocks(max(prompt.batch.sequence_lengths) + options.max_new_tokens)
    # Two answers may be under way at a time: each takes an engine of its own.
    engine = take_engine(model, len(prompts), room)
    scheduler = Scheduler(model, slots=len(prompts), max_tokens=room, prefill_tokens=prompt.batch.tokens, engine=engine)
    for row, one in enumerate(prompts):
        scheduler.submit(Request(prompt=one, options=options, request_id=str(row), row=row))
    while not scheduler.is_idle:
        tokens = np.full(len(prompts), options.pad_id, np.int32)
        active = np.zeros(len(prompts), np.bool_)
        for event in scheduler.step():
            tokens[int(event.request_id)], active[int(event.request_id)] = event.token, True
        try:
            yield Step(tokens=tokens, active=active)
        except GeneratorExit:
            # Whoever has read enough; between two steps the engine is as sound as at the end.
            give_back(engine, model)
            raise
    give_back(engine, model)


def complete(model: Qwen25VL, prompt: Prompt, padded_ids: ArrayLike, options: GenerationOptions) -> NDArray[np.int64]:
    """Give the padded prompt rows followed by the new tokens, int64 [B, T + new], as HF `generate` does."""
    steps = [step.tokens for step in stream_tokens(model, prompt, options)]
    new_ids = np.stack(steps, axis=1).astype(np.int64)
    return np.concatenate((np.asarray(padded_ids, np.int64), new_ids), axis=1)
