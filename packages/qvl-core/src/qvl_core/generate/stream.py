"""Generate token by token: the loop around engine and sampling.

Legend: B sequences, T padded prompt length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvl_core.generate.engine import Engine
from qvl_core.generate.options import GenerationOptions
from qvl_core.generate.sampling import choose_token, row_generator
from qvl_core.model.inputs import Prompt
from qvl_core.model.qwen25vl import Qwen25VL


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One new token for each sequence; padding where `active` is false, because the sequence had stopped before."""

    tokens: NDArray[np.int32]  # [B]
    active: NDArray[np.bool_]  # [B]


def stream_tokens(model: Qwen25VL, prompt: Prompt, options: GenerationOptions) -> Iterator[Step]:
    """Yield steps until every sequence has met a stop token or `max_new_tokens` are there."""
    engine = Engine(model, prompt)
    starts = np.cumsum(prompt.batch.sequence_lengths)[:-1]
    seen = [list(ids) for ids in np.split(prompt.batch.input_ids, starts)]
    generators = [row_generator(options.seed, row) for row in range(len(seen))]
    active = np.ones(len(seen), np.bool_)
    scores_BV = engine.prefill()
    for count in range(1, options.max_new_tokens + 1):
        tokens = np.full(len(seen), options.pad_id, np.int32)
        for row in np.flatnonzero(active):
            tokens[row] = choose_token(scores_BV[row], np.asarray(seen[row]), options, generators[row])
            seen[row].append(int(tokens[row]))
        yield Step(tokens=tokens, active=active.copy())
        active &= ~np.isin(tokens, options.stop_ids)
        if not active.any() or count == options.max_new_tokens:
            return
        scores_BV = engine.step(tokens, active)


def complete(model: Qwen25VL, prompt: Prompt, padded_ids: ArrayLike, options: GenerationOptions) -> NDArray[np.int64]:
    """Give the padded prompt rows followed by the new tokens, int64 [B, T + new], as HF `generate` does."""
    steps = [step.tokens for step in stream_tokens(model, prompt, options)]
    new_ids = np.stack(steps, axis=1).astype(np.int64)
    return np.concatenate((np.asarray(padded_ids, np.int64), new_ids), axis=1)
