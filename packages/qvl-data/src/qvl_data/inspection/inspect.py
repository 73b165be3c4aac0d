"""Look at all data of a recipe as a run would, and report instead of stopping at what is wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qvl_core.errors import DataError, Problem
from qvl_core.geometry import tokens_of

from qvl_data.inspection.examples import example_sample
from qvl_data.inspection.figures import length_totals, longest_first
from qvl_data.inspection.findings import EXAMPLES, FindingList
from qvl_data.inspection.histogram import length_histogram
from qvl_data.inspection.report import (
    CheckReport,
    EpochTotals,
    LongSample,
    MediaTotals,
    SourceCount,
    TokenTotals,
)
from qvl_data.media.preflight import MediaCheck, Progress, check_media
from qvl_data.order.sample_order import SampleOrder
from qvl_data.planning import LengthRule, TooLongList, plan_samples, resolve_media
from qvl_data.processor import load_processor
from qvl_data.records.formats import read_records
from qvl_data.samples import PlannedSample

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

_LONGEST = 10


@dataclass(kw_only=True)
class _Part:
    count: SourceCount
    planned: list[PlannedSample] = field(default_factory=list)


def inspect_recipe(
    recipe: Recipe,
    *,
    decode: bool = False,
    max_problems: int = EXAMPLES,
    examples: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    start = time.monotonic()
    data = recipe.data
    processor = load_processor(
        recipe.weights.source, recipe.spec, min_pixels=data.image.min_pixels, max_pixels=data.image.max_pixels
    )
    found = FindingList(max_problems)
    sources = [(s, s.weight, s.max_samples) for s in data.sources]
    parts = []
    media_all: MediaCheck | None = None
    images = set()
    for source, weight, limit in sources:
        before = found.count
        path = Path(source.path)
        try:
            records, _ = read_records(path, format_name=source.format, max_samples=limit, problems=found)
        except DataError as error:
            found.extend(error.problems)
            records = []
        read = len(records) + found.count - before
        resolved = resolve_media(records, Path(source.media_root or path.parent), found)
        media = check_media((p for _, ps in resolved for p in ps), cache_dir=None, workers=2, progress=progress)
        images |= set(media.facts)
        too_long = TooLongList()
        planned = plan_samples(
            resolved,
            media=media,
            processor=processor,
            rule=LengthRule(limit=data.sequence_length, policy=data.too_long),
            problems=found,
            too_long=too_long,
            progress=progress,
        )
        for note in too_long.examples:
            found.add(note)
        parts.append(
            _Part(
                count=SourceCount(
                    path=str(path),
                    format=source.format,
                    records=read,
                    usable=len(planned),
                    dropped=too_long.dropped,
                    shrunk=too_long.shrunk,
                    wrong=read - len(planned) - too_long.dropped,
                    weight=weight,
                ),
                planned=planned,
            )
        )
    samples = [s for part in parts for s in part.planned]
    tokens = np.array([s.tokens for s in samples], np.int64)
    merge = processor.spec.vision.spatial_merge_size
    image = np.array(
        [
            sum(tokens_of([processor.images.grid(f.facts.height, f.facts.width, s.max_pixels) for f in s.media], merge))
            if s.media
            else 0
            for s in samples
        ],
        np.int64,
    )
    order = SampleOrder(counts=tuple(len(p.planned) for p in parts), weights=tuple(w for _, w, _ in sources), seed=0)
    dropped = np.array(
        [
            int(re.search(r"has ([\d,]+)", p.message)[1].replace(",", ""))
            for f in found.findings()
            if f.kind == "too_long"
            for p in f.examples
            if "dropped" in p.message
        ],
        np.int64,
    )
    shown = []
    if examples and samples:

        def ex(why, i):
            s = samples[i]
            return example_sample(why, s.record.where, s.tokens, s.record.turns, s.media)

        shown = [ex("longest", i) for i in longest_first(tokens, 4)] + [
            ex("random", int(i)) for i in np.random.default_rng(0).permutation(len(samples))[:8]
        ]
    return CheckReport(
        recipe=recipe.path,
        model=recipe.spec.name,
        sequence_length=data.sequence_length,
        too_long=data.too_long,
        packing=data.packing,
        decoded=True,
        seconds=time.monotonic() - start,
        sources=tuple(p.count for p in parts),
        findings=found.findings(),
        lengths=length_totals(tokens),
        histogram=length_histogram(tokens, dropped, data.sequence_length),
        tokens=TokenTotals(text=int((tokens - image).sum()), image=int(image.sum()), video=0),
        epoch=EpochTotals(
            samples=order.epoch_length,
            tokens=int(tokens[order.epoch(0)].sum()),
            items_per_step=recipe.train.global_batch,
            steps=recipe.train.steps,
            epochs=recipe.train.epochs,
        )
        if len(tokens)
        else None,
        media=MediaTotals(images=len(images), videos=0, bytes=sum(p.stat().st_size for p in images)),
        examples=tuple(shown),
        longest=tuple(
            LongSample(
                where=samples[i].record.where,
                tokens=int(tokens[i]),
                text=int(tokens[i] - image[i]),
                image=int(image[i]),
                video=0,
            )
            for i in longest_first(tokens, _LONGEST)
        ),
    )


def failed_report(path: str, problems: Sequence[Problem]) -> CheckReport:
    """Give the report of a recipe that cannot be loaded."""
    found = FindingList()
    found.extend(tuple(problems))
    return CheckReport(
        recipe=path,
        model="",
        sequence_length=0,
        too_long="",
        packing=False,
        decoded=False,
        seconds=0.0,
        findings=found.findings(),
    )
