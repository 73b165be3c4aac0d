"""[eval]: a benchmark and its scoring rules."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qvl_core.recipe.sections.section import PathText, Section


class EvalSection(Section):
    """One benchmark file, answered and scored."""

    benchmark: Literal["ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val", "digits_test"] = Field(
        description="Which benchmark `data` holds: it decides prompts and score.", examples=["ai2d_test"]
    )
    data: PathText = Field(
        description="TSV file of the benchmark (base64 images), relative to the working directory.",
        examples=["data/AI2D_TEST.tsv"],
    )
    rules: Literal["vlmevalkit-2025-09", "exact"] = Field(
        default="vlmevalkit-2025-09",
        description="Scoring rules, named and dated because they decide the number: vlmevalkit-2025-09, or exact (the "
        "answer equals the reference). Default vlmevalkit-2025-09: published scores use it.",
        examples=["vlmevalkit-2025-09"],
    )
    batch: int = Field(
        default=1,
        ge=1,
        le=100_000,
        description="Rows answered at a time on one replica, at least 1. Default 1.",
        examples=[4],
    )
    limit: int = Field(
        default=0, ge=0, description="Answer the first N rows only; 0 answers all. Default 0.", examples=[0]
    )
