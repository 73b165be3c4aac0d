"""How long samples are: from a report of `qvl data check`, from the index that a run keeps, or assumed.

Time follows the mean sample, memory the longest one. Nothing of qvl-data is imported: the report is its JSON, the index
an npz file with the columns `samples.tokens` and `samples.text_tokens`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.errors import DataError, Problem
from qvl_core.json_file import read_json_object

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# What the reference stack states of its training data, 563 tokens a sample at a limit of 1,024, and what a photograph
# of 480 x 640 has of them at max_pixels 262,144 (benchmarks/bubble.py): 320.
MEAN_SHARE = 563 / 1024
MEDIA_SHARE = 320 / 563
# Of the tokens that are no media: a question, its answer, and the template around them.
LABEL_SHARE = 1 / 3
PACK_FILL = 0.95
# A question with the template around it.
PROMPT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tokens of a sample (a pack, with packing): all, of media among them, with a label; on average and at most.

    `source` says in a sentence where the numbers come from, `measured` whether from data.
    """

    tokens: float
    media_tokens: float
    labels: float
    longest: int
    longest_media: int
    source: str
    measured: bool


def assumed_workload(sequence_length: int, *, packing: bool = False) -> Workload:
    """Give what is assumed of data that nobody has looked at."""
    mean = sequence_length * (PACK_FILL if packing else MEAN_SHARE)
    media = mean * MEDIA_SHARE
    kind = f"packs filled to {PACK_FILL:.0%}" if packing else f"{mean:.0f} tokens a sample on average"
    return Workload(
        tokens=mean,
        media_tokens=media,
        labels=(mean - media) * LABEL_SHARE,
        longest=sequence_length,
        longest_media=sequence_length,
        source=f"assumed: {kind}, {MEDIA_SHARE:.0%} of them media (the reference's 563 of 1,024), a longest sample of "
        f"{sequence_length:,} tokens, all media; "
        "--data-report FILE takes what `qvl data check --format json` prints",
        measured=False,
    )


def workload_of(recipe: Recipe, report: str | None = None) -> Workload:
    """Give the lengths of a recipe's data: of the report named, else of an index that is kept, else assumed.

    Raises DataError for a report that is none, or one of other settings than the recipe's.
    """
    limit, packing = recipe.data.sequence_length, recipe.data.packing
    if report is not None:
        return _from_report(Path(report), limit, packing)
    if recipe.task != "sft":
        return _prompts(recipe)
    found = _from_index(recipe)
    return found or assumed_workload(limit, packing=packing)


def _prompts(recipe: Recipe) -> Workload:
    """Give what is assumed of a prompt: one image as large as the recipe allows, and some text."""
    vision = recipe.spec.vision
    side = vision.patch_size * vision.spatial_merge_size
    media = max(1, recipe.data.image.max_pixels // side**2)
    longest = min(media + PROMPT_TOKENS, recipe.spec.text.max_position_embeddings)
    media = min(media, longest)
    return Workload(
        tokens=longest,
        media_tokens=media,
        labels=1,
        longest=longest,
        longest_media=media,
        source=f"assumed: prompts of an image of max_pixels, {media:,} tokens, and {longest - media} of text",
        measured=False,
    )


def _from_report(path: Path, limit: int, packing: bool) -> Workload:
    fix = f"qvl data check RECIPE --format json > {path}"
    content = read_json_object(path, error_type=DataError, fix=fix)

    def refuse(key: str, message: str) -> DataError:
        return DataError(Problem(where=str(path), key=key, message=message, fix=fix))

    if content.get("schema") != 1 or "lengths" not in content:
        raise refuse("schema", "is no report of `qvl data check` of format 1")
    lengths, tokens = content.get("lengths"), content.get("tokens")
    if lengths is None or tokens is None:
        raise refuse("lengths", "has no lengths: the check found no sample that can be used")
    of_samples, of_tokens = _numbers(lengths, ("mean", "longest")), _numbers(tokens, ("text", "all"))
    if of_samples is None or of_tokens is None:
        raise refuse(
            "lengths", "lacks one of lengths.mean, lengths.longest, tokens.text, tokens.all, or it is no number"
        )
    (mean, longest), (text, total) = of_samples, of_tokens
    stated = content.get("settings", {})
    checked_at = stated.get("sequence_length") if isinstance(stated, dict) else None
    if checked_at != limit:
        raise refuse("settings.sequence_length", f"is {checked_at}, the recipe's data.sequence_length is {limit}")
    if not 0 < mean <= longest <= limit or not 0 <= text <= total:
        raise refuse("lengths", f"mean {mean:g}, longest {longest:g} at a limit of {limit:,}: do not belong together")
    return _measured(mean, int(longest), 1 - text / total if total else 0.0, limit, packing, f"measured: {path}")


def _numbers(values: Any, keys: tuple[str, str]) -> tuple[float, float] | None:
    found = [values.get(key) for key in keys] if isinstance(values, dict) else [None]
    if any(not isinstance(value, int | float) or isinstance(value, bool) for value in found):
        return None
    return float(found[0]), float(found[1])  # type: ignore[arg-type]


def _measured(mean: float, longest: int, media: float, limit: int, packing: bool, source: str) -> Workload:
    tokens = limit * PACK_FILL if packing else mean
    most = limit if packing else longest
    return Workload(
        tokens=tokens,
        media_tokens=tokens * media,
        labels=tokens * (1 - media) * LABEL_SHARE,
        longest=most,
        longest_media=most,
        source=f"{source}: {mean:,.0f} tokens a sample on average, {media:.0%} of them media, at most {longest:,}",
        measured=True,
    )


def _from_index(recipe: Recipe) -> Workload | None:
    """Give the lengths of the newest index in `data.cache_dir` that is of the recipe's files; None without one."""
    folder = Path(recipe.data.cache_dir) if recipe.data.cache_dir else None
    if folder is None or not folder.is_dir():
        return None
    wanted = {str(Path(source.path).resolve()) for source in recipe.data.sources}
    dated = sorted(((file.stat().st_mtime_ns, file) for file in folder.glob("index-*.npz")), reverse=True)
    for _, file in dated:
        found = _lengths_in(file, wanted, recipe.data.sequence_length)
        if found is not None:
            mean, longest, media = found
            source = f"measured: the index that a run has kept, {file}"
            return _measured(mean, longest, media, recipe.data.sequence_length, recipe.data.packing, source)
    return None


def _lengths_in(file: Path, wanted: set[str], limit: int) -> tuple[float, int, float] | None:
    # Only where there is an index: numpy takes longer to import than a plan to make.
    import zipfile

    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as content:
            about = json.loads(content["about"].astype(np.uint8).tobytes())
            held = {str(Path(path).resolve()) for path in about["files"]}
            tokens = content["samples.tokens"].astype(np.int64)
            text = content["samples.text_tokens"].astype(np.int64)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    usable = tokens <= limit
    if not wanted or not wanted <= held or not usable.any():
        return None
    tokens, text = tokens[usable], text[usable]
    return float(tokens.mean()), int(tokens.max()), float(1 - text.sum() / tokens.sum())
