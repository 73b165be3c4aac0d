"""[generation]: how answers are generated in evaluation and inference."""

from __future__ import annotations

from pydantic import Field

from qvl_core.recipe.sections.section import Section


class GenerationSection(Section):
    """Greedy by default: the same question gets the same answer."""

    max_new_tokens: int = Field(
        default=256, ge=1, le=1_000_000, description="Longest answer, tokens, at least 1. Default 256.", examples=[256]
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Divides the logits before sampling; 0 takes the likeliest token. Default 0.0: greedy.",
        examples=[0.0],
    )
    top_k: int = Field(
        default=1,
        ge=0,
        le=10_000_000,
        description="Sample among the k likeliest tokens; 0 among all. Default 1: greedy.",
        examples=[1],
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Sample among the likeliest tokens that hold this much probability, in (0, 1]. Default 1.0: all.",
        examples=[1.0],
    )
    repetition_penalty: float = Field(
        default=1.05,
        gt=0,
        le=100,
        description="Divides (positive) or multiplies (negative) the logits of tokens already seen; 1.0 is off. "
        "Default 1.05: the published generation config's.",
        examples=[1.05],
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of sampling, 0 to 4294967295. Default 42.", examples=[42]
    )
