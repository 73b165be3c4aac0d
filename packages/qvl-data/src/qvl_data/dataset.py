"""Everything a run needs of its data, checked: `prepare` reads, checks, measures and splits before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qvl_core.errors import DataError, Problem

from qvl_data.chat import LossOn
from qvl_data.media.features import KnownFeatures
from qvl_data.media.preflight import MediaCheck, Progress, check_media, remember
from qvl_data.order.sample_order import SampleOrder, held_out
from qvl_data.planning import LengthRule, TooLongList, plan_samples, resolve_media
from qvl_data.processor import Processor, load_processor
from qvl_data.records.formats import read_records
from qvl_data.records.problem_list import ProblemList
from qvl_data.records.record import Record
from qvl_data.samples import PlannedSample, Sample, build_sample

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe
    from qvl_core.recipe.sections import SourceSection, ValidationSection


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples in file order, made when they are asked for. `counts` and `weights` have one entry per source."""

    planned: tuple[PlannedSample, ...]
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    processor: Processor
    loss_on: LossOn
    features: KnownFeatures | None = None
    """What samples carry in place of patches (`vision_media.with_features`)."""

    def __len__(self) -> int:
        return len(self.planned)

    def sample(self, index: int) -> Sample:
        """Make sample `index`. Raises DataError, with file and line, if a media file has changed since the check."""
        return build_sample(self.planned[index], self.processor, loss_on=self.loss_on, known=self.features)

    def order(self, seed: int) -> SampleOrder:
        """Give the order in which training uses the samples."""
        return SampleOrder(counts=self.counts, weights=self.weights, seed=seed)

    def epoch_length(self) -> int:
        """Count the samples of one epoch: round(weight x samples) of each source."""
        return self.order(0).epoch_length


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What `prepare` found. `tokens` and `longest` are of the samples that training uses, in tokens.

    `validation_from` says where the validation samples come from, "" without any.
    """

    records: int
    train_samples: int
    validation_samples: int
    validation_from: str
    dropped: int
    shrunk: int
    images: int
    tokens: int
    longest: int
    epoch_length: int
    notes: tuple[Problem, ...]  # The first too long samples and what became of them.

    def lines(self) -> list[str]:
        """Say it in a few lines for people."""
        mean = self.tokens / max(1, self.train_samples)
        lines = [
            f"{self.records:,} records with {self.images:,} images checked",
            f"{self.train_samples:,} training samples of {mean:,.0f} tokens on average, at most {self.longest:,}",
        ]
        if self.validation_samples:
            lines.append(f"{self.validation_samples:,} validation samples, {self.validation_from}")
        if self.dropped or self.shrunk:
            lines.append(f"too long: {self.dropped:,} dropped, {self.shrunk:,} shrunk")
            lines += [f"  {note.where}: {note.message}" for note in self.notes]
        return lines


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """The data of a run. `data_hash` is sha256 over the sources' bytes and the media's names and bytes."""

    train: Dataset
    validation: Dataset | None
    report: DataReport
    data_hash: str
    processor: Processor


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """One file of records, read and resolved."""

    records: list[tuple[Record, tuple[Path, ...]]]
    digest: str
    read: int
    weight: float


def prepare(recipe: Recipe, *, progress: Progress | None = None) -> PreparedData:
    """Read and check every record and every image of a recipe, count tokens, and split off the validation samples.

    Raises DataError with everything that is wrong with the data at once (20 shown, all counted), WeightsError if the
    tokenizer or image processor of `weights.source` cannot be used.
    """
    data = recipe.data
    _refuse_later_features(recipe)
    processor = load_processor(
        recipe.weights.source, recipe.spec, min_pixels=data.image.min_pixels, max_pixels=data.image.max_pixels
    )
    problems = ProblemList()
    loaded = [_load(source, source.max_samples, source.weight, problems) for source in data.sources]
    own_file = data.validation if data.validation is not None and data.validation.path is not None else None
    if own_file is not None:
        loaded.append(_load(own_file, None, 1.0, problems))
    media = check_media(
        (path for part in loaded for _, paths in part.records for path in paths),
        cache_dir=Path(data.cache_dir),
        workers=data.workers,
        progress=progress,
    )
    too_long = TooLongList()
    rule = LengthRule(limit=data.sequence_length, policy=data.too_long)
    planned = [
        plan_samples(
            part.records,
            media=media,
            processor=processor,
            rule=rule,
            problems=problems,
            too_long=too_long,
            progress=progress,
        )
        for part in loaded
    ]
    problems.raise_if_any(recipe.path)
    validation_part = planned.pop() if own_file is not None else None
    _refuse_all_dropped(planned, too_long, recipe)
    weights = tuple(part.weight for part in loaded[: len(planned)])
    train, held = _split(planned, weights, recipe, processor)
    remember(media)
    if validation_part is not None:
        _refuse_all_dropped([validation_part], too_long, recipe, key="data.validation.path")
        held = _dataset([validation_part], (1.0,), recipe, processor)
    return PreparedData(
        train=train,
        validation=held,
        report=_report(recipe, loaded, train, held, too_long, media),
        data_hash=_data_hash(loaded, media),
        processor=processor,
    )


def _load(
    source: SourceSection | ValidationSection, max_samples: int | None, weight: float, problems: ProblemList
) -> _Loaded:
    assert source.path is not None  # The caller has checked a validation section that has none.
    path = Path(source.path)
    root = Path(source.media_root) if source.media_root else path.parent
    before = problems.count
    try:
        records, content = read_records(path, format_name=source.format, max_samples=max_samples, problems=problems)
    except DataError as error:
        problems.extend(error.problems)
        return _Loaded(records=[], digest="", read=0, weight=weight)
    if not root.is_dir() and any(record.media for record in records):
        fix = "set media_root of this source to the folder that the image paths start from"
        problems.add(
            Problem(where=str(root), key="data.sources.media_root", message="there is no such folder", fix=fix)
        )
        return _Loaded(records=[], digest="", read=0, weight=weight)
    read = len(records) + problems.count - before
    resolved = resolve_media(records, root, problems)
    return _Loaded(records=resolved, digest=hashlib.sha256(content).hexdigest(), read=read, weight=weight)


def _refuse_later_features(recipe: Recipe) -> None:
    """Refuse what the schema knows and this version does not do, instead of ignoring it."""
    problems = [
        Problem(
            where=recipe.path, key=f"data.{key}", message="is not in this version yet", fix=f"set data.{key} = false"
        )
        for key in ("packing", "streaming")
        if getattr(recipe.data, key)
    ]
    if not recipe.data.sources:
        problems.append(Problem(where=recipe.path, key="data.sources", message="names no file of records"))
    if problems:
        raise DataError(problems)


def _refuse_all_dropped(
    planned: Sequence[Sequence[PlannedSample]], too_long: TooLongList, recipe: Recipe, *, key: str = ""
) -> None:
    """Raise DataError if no sample is left; `key` names a file among others."""
    if any(planned):
        return
    limit = recipe.data.sequence_length
    raise DataError(
        Problem(
            where=recipe.path,
            key="data.sequence_length",
            message=f"all {too_long.dropped:,} samples are longer than {limit:,} tokens and were dropped"
            if not key
            else f"all samples of {key} are longer than {limit:,} tokens and were dropped",
            fix='raise data.sequence_length, or set data.too_long = "shrink"',
        )
    )


def _split(
    planned: list[list[PlannedSample]], weights: tuple[float, ...], recipe: Recipe, processor: Processor
) -> tuple[Dataset, Dataset | None]:
    validation = recipe.data.validation
    fraction = validation.fraction if validation is not None else None
    if fraction is None:
        return _dataset(planned, weights, recipe, processor), None
    total = sum(len(part) for part in planned)
    seed = recipe.train.seed if recipe.train is not None else 0
    marks = held_out(total, fraction, seed)
    if marks.all():
        message = f"holds out {int(marks.sum()):,} of {total:,} samples: none is left to train on"
        raise DataError(Problem(where=recipe.path, key="data.validation.fraction", message=message))
    borders = np.cumsum([0, *(len(part) for part in planned)])
    kept, held = [], []
    for part, start in zip(planned, borders, strict=False):
        kept.append([sample for i, sample in enumerate(part) if not marks[start + i]])
        held.append([sample for i, sample in enumerate(part) if marks[start + i]])
    return _dataset(kept, weights, recipe, processor), _dataset(held, weights, recipe, processor)


def _dataset(
    parts: Sequence[Sequence[PlannedSample]], weights: tuple[float, ...], recipe: Recipe, processor: Processor
) -> Dataset:
    return Dataset(
        planned=tuple(sample for part in parts for sample in part),
        counts=tuple(len(part) for part in parts),
        weights=weights,
        processor=processor,
        loss_on=recipe.data.loss_on,
    )


def _report(
    recipe: Recipe,
    loaded: Sequence[_Loaded],
    train: Dataset,
    held: Dataset | None,
    too_long: TooLongList,
    media: MediaCheck,
) -> DataReport:
    lengths = [sample.tokens for sample in train.planned]
    return DataReport(
        records=sum(part.read for part in loaded),
        train_samples=len(train),
        validation_samples=len(held) if held is not None else 0,
        validation_from=_validation_from(recipe),
        dropped=too_long.dropped,
        shrunk=too_long.shrunk,
        images=len(media.facts),
        tokens=sum(lengths),
        longest=max(lengths, default=0),
        epoch_length=train.epoch_length(),
        notes=tuple(too_long.examples),
    )


def _validation_from(recipe: Recipe) -> str:
    validation, train = recipe.data.validation, recipe.train
    if validation is None:
        return ""
    if validation.fraction is None:
        return f"from {validation.path}"
    return f"{validation.fraction:.3g} of all, drawn with seed {train.seed if train is not None else 0}"


def _data_hash(loaded: Sequence[_Loaded], media: MediaCheck) -> str:
    """Hash what the samples are made of. Names are those of the records, so that a moved folder keeps its hash."""
    total = hashlib.sha256()
    for part in loaded:
        total.update(f"source {part.digest}\n".encode())
        names = {
            (medium.written, media.facts[path].digest)
            for record, paths in part.records
            for medium, path in zip(record.media, paths, strict=True)
        }
        for written, digest in sorted(names):
            total.update(f"{digest} {written}\n".encode())
    return total.hexdigest()
