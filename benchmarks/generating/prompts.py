"""What both sides are asked: prompts with a picture and different text in each row. numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from training.shape import SMALL, Sample, make_sample

# 256 tokens of a picture of 448 x 448, its two borders, and text.
PROMPT_TOKENS = 294
NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A request of the mix: text of `tokens` tokens, or a picture with text; `new` tokens are to come."""

    tokens: int
    has_picture: bool
    new: int


def make_rows(count: int) -> list[Sample]:
    """Give prompts that differ in picture and text."""
    whole = make_sample(SMALL, "all")
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        ids = whole.input_ids[:, :PROMPT_TOKENS].copy()
        text = slice(PROMPT_TOKENS - 36, PROMPT_TOKENS)
        ids[0, text] = rng.integers(0, SMALL.tokens.vision_start, 36)
        rows.append(
            replace(
                whole,
                input_ids=ids,
                mm_token_type_ids=whole.mm_token_type_ids[:, :PROMPT_TOKENS],
                pixel_values=rng.standard_normal(whole.pixel_values.shape, np.float32),
            )
        )
    return rows


def make_mix(count: int) -> list[Mixed]:
    """Give requests of mixed lengths, a third of them with a picture."""
    rng = np.random.default_rng(7)
    return [
        Mixed(tokens=int(rng.integers(8, 200)), has_picture=number % 3 == 0, new=int(rng.integers(8, 96)))
        for number in range(count)
    ]


def text_ids(tokens: int, seed: int) -> NDArray[np.int64]:
    """Give [1, tokens] of random text."""
    return np.random.default_rng(seed).integers(0, SMALL.tokens.vision_start, (1, tokens))
