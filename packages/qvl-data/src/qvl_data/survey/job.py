"""What is to be surveyed and how, in a form that travels to another process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.recipe.sections import TagSection, VideoSection
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

from qvl_data.media.checker import MediaChecker
from qvl_data.media.memory import memory_file, read_memory
from qvl_data.planning import LengthRule, Planner
from qvl_data.processor import Processor, load_processor
from qvl_data.records.problem_list import SHOWN
from qvl_data.source_rules import SourceRules

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class SurveyFile:
    """One file of records; `source` counts the recipe's sources from 0."""

    source: int
    path: str


@dataclass(frozen=True, kw_only=True)
class SurveyJob:
    """Everything that the verdict on a record depends on. All values are JSON's."""

    files: tuple[SurveyFile, ...]
    sources: tuple[dict[str, Any], ...]
    checkpoint: str
    spec: dict[str, Any]
    image: tuple[int, int]
    video: dict[str, Any]
    limit: int
    policy: str
    frame: str
    decode: bool
    memory: str
    shown: int = SHOWN
    """Problems of a kind that are kept of each chunk, beside their number."""

    def to_json(self) -> str:
        """Give one line of JSON."""
        return json.dumps(asdict(self))

    def rules(self, source: int) -> SourceRules:
        """Give the rules of a source."""
        values = self.sources[source]
        return SourceRules(
            path=Path(values["path"]),
            format=values["format"],
            tags=None if values["tags"] is None else TagSection(**values["tags"]),
            media_root=Path(values["media_root"]),
            allow_outside=values["allow_outside"],
            max_samples=values["max_samples"],
        )

    def processor(self) -> Processor:
        """Read the checkpoint's processor. Raises WeightsError."""
        spec = ModelSpec(
            name=self.spec["name"],
            vision=VisionSpec(**_tuples(self.spec["vision"])),
            text=TextSpec(**_tuples(self.spec["text"])),
            tokens=TokenIds(**self.spec["tokens"]),
            position_rule=self.spec["position_rule"],
        )
        smallest, largest = self.image
        video = VideoSection(**self.video)
        return load_processor(self.checkpoint, spec, min_pixels=smallest, max_pixels=largest, video=video)

    def planner(self, processor: Processor) -> Planner:
        """Give the judge of single records."""
        checker = MediaChecker(
            decode=self.decode,
            video_timeout_s=processor.video_timeout_s,
            memory=read_memory(Path(self.memory)) if self.memory else None,
        )
        rule = LengthRule(limit=self.limit, policy=self.policy)  # type: ignore[arg-type]
        return Planner(processor=processor, checker=checker, rule=rule, frame=self.frame)  # type: ignore[arg-type]


def job_from_json(text: str) -> SurveyJob:
    """Give the job of `SurveyJob.to_json`."""
    values = json.loads(text)
    values["files"] = tuple(SurveyFile(**file) for file in values["files"])
    values["sources"] = tuple(values["sources"])
    values["image"] = tuple(values["image"])
    return SurveyJob(**values)


def make_job(
    recipe: Recipe,
    rules: list[SourceRules],
    files: list[tuple[int, Path]],
    processor: Processor,
    *,
    decode: bool,
    shown: int = SHOWN,
) -> SurveyJob:
    """Give the job for the files of a recipe's sources; `files` holds (number of the source, path)."""
    data = recipe.data
    memory = memory_file(Path(data.cache_dir), [rule.media_root for rule in rules])
    return SurveyJob(
        files=tuple(SurveyFile(source=source, path=str(path)) for source, path in files),
        sources=tuple(_source_values(rule) for rule in rules),
        checkpoint=str(processor.folder),
        spec=asdict(processor.spec),
        image=(data.image.min_pixels, data.image.max_pixels),
        video=data.video.model_dump(mode="json"),
        limit=data.sequence_length,
        policy=data.too_long,
        frame=data.grounding,
        decode=decode,
        memory=str(memory),
        shown=shown,
    )


def _source_values(rule: SourceRules) -> dict[str, Any]:
    return {
        "path": str(rule.path),
        "format": rule.format,
        "tags": None if rule.tags is None else rule.tags.model_dump(mode="json"),
        "media_root": str(rule.media_root),
        "allow_outside": rule.allow_outside,
        "max_samples": rule.max_samples,
    }


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
