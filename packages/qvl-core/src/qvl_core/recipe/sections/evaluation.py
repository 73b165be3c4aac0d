"""[eval]: a benchmark, how it is asked and scored; in a training recipe also how often."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from qvl_core.recipe.sections.section import PathText, Section, as_tuple, section_defaults

RuleSet = Literal[
    "vlmevalkit-2026-06",
    "vlmevalkit-2025-09",
    "vlmevalkit-legacy",
    "mindspeed",
    "mmmu-official",
    "mmmu-official-random",
    "vlmevalkit-2026-06+mmmu-official",
    "vlmevalkit-2025-09+mmmu-official",
    "vlmevalkit-legacy+mmmu-official",
    "exact",
]

RuleSets = Annotated[tuple[RuleSet, ...], Field(min_length=1), BeforeValidator(as_tuple)]


class PreflightSection(Section):
    """The first answers, of rows spread over the file: a set-up that gives none that count is stopped there."""

    rows: int = Field(
        default=16,
        ge=0,
        le=10_000,
        description="Rows that are answered and judged before the rest, spread over the file; 0 for none. Fewer than 8 "
        "are not judged. Default 16.",
        examples=[16],
    )
    max_failed: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Largest share of these answers out of which nothing can be read, 0 to 1. Default 0.9.",
        examples=[0.5],
    )
    on_failure: Literal["stop", "continue"] = Field(
        default="stop",
        description="What is done with a set-up that fails: stop, or continue after saying so. Default stop.",
        examples=["continue"],
    )


class EvalSection(Section):
    """One benchmark file, answered and scored."""

    benchmark: Literal["ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val", "digits_test", "held_out"] = Field(
        description="Which benchmark `data` holds: it decides prompts and score. held_out is a file of your own with "
        "the columns index, image, question and answer; its questions are asked as they stand.",
        examples=["ai2d_test"],
    )
    data: PathText = Field(
        description="TSV file of the benchmark (base64 images), relative to the working directory.",
        examples=["data/AI2D_TEST.tsv"],
    )
    rules: RuleSet | RuleSets = Field(
        default="vlmevalkit-2025-09",
        description="Scoring rules, one or a list, named and dated because they decide the number; of a list the first "
        "gives the headline. See docs/evaluate.md. exact: the answer equals the reference. Default vlmevalkit-2025-09.",
        examples=["vlmevalkit-2025-09"],
    )
    prompts: Literal["custom", "default"] = Field(
        default="custom",
        description="Prompt family: custom (what MindSpeed-MM asks, and VLMEvalKit of Qwen2-VL) or default (what "
        "VLMEvalKit asks Qwen2.5-VL). Default custom.",
        examples=["default"],
    )
    pixels: Literal["vlmevalkit", "mindspeed", "qwen3-vl", "lmms-eval", "demo"] | None = Field(
        default=None,
        description="Limits of pixels by the name of who uses them, in place of data.image: vlmevalkit and mindspeed "
        "1003520..12845056, qwen3-vl 1003520..4014080, lmms-eval 200704..1605632, demo 200704..1003520. Default: "
        "those of data.image.",
        examples=["vlmevalkit"],
    )
    compat: Literal["none", "pandas"] = Field(
        default="none",
        description="How cells are read: none (text as it stands, only an empty cell is missing) or pandas (as "
        "upstream's reader: NA and None are missing, columns of numbers are numbers). Default none.",
        examples=["pandas"],
    )
    batch: int = Field(
        default=1,
        ge=1,
        le=100_000,
        description="Rows answered at a time on one replica, at least 1. Default 1.",
        examples=[4],
    )
    held_tokens: int | None = Field(
        default=None,
        ge=64,
        le=100_000_000,
        description="Tokens of prompts and answers that one replica's cache has room for; it grows as rows need it. "
        "Default: the model's window, so that any row fits.",
        examples=[65536],
    )
    limit: int = Field(
        default=0, ge=0, description="Answer the first N rows only; 0 answers all. Default 0.", examples=[0]
    )
    every: int = Field(
        default=0,
        ge=0,
        description="In a training recipe: evaluate after every so many steps, and after the last; 0 for never. "
        "Default 0.",
        examples=[500],
    )
    preflight: PreflightSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="The first answers, by which a broken set-up is stopped early.",
        examples=[{"rows": 16}],
    )

    @property
    def rule_sets(self) -> tuple[RuleSet, ...]:
        """Give the rule sets as a list, the one of the headline first."""
        return (self.rules,) if isinstance(self.rules, str) else self.rules
