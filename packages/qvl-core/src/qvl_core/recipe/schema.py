"""The recipe itself: its top level, and what a loaded recipe knows beyond its keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from qvl_core.errors import Problem
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora
from qvl_core.recipe.sections import (
    DataSection,
    EnvSection,
    EvalSection,
    ExpectedSection,
    GenerationSection,
    InferSection,
    LaunchSection,
    LayoutSection,
    ModelSection,
    OutputSection,
    Section,
    TrainSection,
    WeightsSection,
)
from qvl_core.recipe.sections.section import section_defaults
from qvl_core.specs.model_spec import ModelSpec

Task = Literal["sft", "eval", "infer"]
OriginKind = Literal["recipe", "extends", "--set", "default", "derived"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value comes from. `file` and `line` are stated for values that stand in a file."""

    kind: OriginKind
    file: str = ""
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What loading found out: the model's shape, the layout, each value's origin, and the warnings."""

    path: str
    spec: ModelSpec
    parallel: Layout
    origins: Mapping[str, Origin]
    warnings: tuple[Problem, ...]


class Recipe(Section):
    """A run of qvl, stated once. Load one with `qvl_core.load_recipe`."""

    schema_version: Literal[1] = Field(
        alias="schema", description="Version of the recipe format. 1 is the only one.", examples=[1]
    )
    extends: str | None = Field(
        default=None,
        max_length=4096,
        description="A recipe to start from, relative to this file and below its folder; one level. Tables merge, "
        "lists replace. Default: none.",
        examples=["base/sft.toml"],
    )
    task: Task = Field(description="What is run: sft (fine-tuning), eval or infer.", examples=["sft"])
    model: ModelSection = Field(description="Which model.", examples=[{"name": "qwen2.5-vl-7b"}])
    layout: LayoutSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="How it is cut over processes. Default: one.",
        examples=[{"tp": 1}],
    )
    weights: WeightsSection = Field(description="Where the weights come from.", examples=[{"source": "ckpt/hf"}])
    data: DataSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="Samples and the size of their media.",
        examples=[{"workers": 8}],
    )
    train: TrainSection | None = Field(
        default=None, description="Training. Needed for task = 'sft'.", examples=[{"steps": 10000}]
    )
    generation: GenerationSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="Generation of answers.",
        examples=[{"max_new_tokens": 256}],
    )
    eval: EvalSection | None = Field(
        default=None, description="The benchmark. Needed for task = 'eval'.", examples=[{"benchmark": "ai2d_test"}]
    )
    infer: InferSection | None = Field(
        default=None,
        description="What `qvl run` asks with task = 'infer'. Default: nothing; `qvl infer` asks.",
        examples=[{"prompt": "Describe the image."}],
    )
    env: EnvSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="Environment variables of the workers.",
        examples=[{"GLOG_v": 2}],
    )
    launch: LaunchSection = Field(description="Devices and machines.", examples=[{"device": "ascend"}])
    output: OutputSection = Field(description="Where the run writes.", examples=[{"dir": "runs/7b_sft"}])
    expected: ExpectedSection | None = Field(
        default=None,
        description="Measured results, with where and when. Absent until someone has run it.",
        examples=[{"accuracy_percent": 95.0}],
    )

    _resolution: Resolution | None = PrivateAttr(default=None)

    @property
    def resolution(self) -> Resolution:
        """Give what loading found out. Raises RuntimeError on a recipe that was not loaded from a file."""
        if self._resolution is None:
            raise RuntimeError("this Recipe was not made by load_recipe")
        return self._resolution

    @property
    def path(self) -> str:
        return self.resolution.path

    @property
    def spec(self) -> ModelSpec:
        return self.resolution.spec

    @property
    def parallel(self) -> Layout:
        """The complete layout, degrees and stage lists."""
        return self.resolution.parallel

    @property
    def lora(self) -> Lora | None:
        """The low-rank adapters, None for full fine-tuning."""
        section = self.train.lora if self.train is not None else None
        return None if section is None else Lora(**section.model_dump())

    @property
    def origins(self) -> Mapping[str, Origin]:
        return self.resolution.origins

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return self.resolution.warnings

    def resolved(self) -> dict[str, Any]:
        """Give every value, defaults and derived ones included, as plain JSON types."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def digest(self) -> str:
        """Give the sha256 of what is run: two recipes that resolve to the same run have the same digest.

        `extends` and `expected` do not count: they change nothing that is computed.
        """
        run = {key: value for key, value in self.resolved().items() if key not in ("extends", "expected")}
        return hashlib.sha256(json.dumps(run, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_json_schema() -> dict[str, Any]:
    """Give the JSON schema of a recipe, for editors: `qvl schema`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema(by_alias=True)}
