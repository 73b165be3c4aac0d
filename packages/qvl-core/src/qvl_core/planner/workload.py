"""How long samples are: from a report of `qvl data check`, from what it or a run has kept, or assumed.

Time follows the mean sample, memory the longest one. Nothing of qvl-data is imported: both are its JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.errors import DataError, Problem
from qvl_core.json_file import read_json_object
from qvl_core.planner.kept_lengths import find_lengths, length_settings

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# What the reference stack states of its training data, 563 tokens a sample at a limit of 1,024, and what a photograph
# of 480 x 640 has of them at max_pixels 262,144 (benchmarks/bubble.py): 320.
MEAN_SHARE = 563 / 1024
MEDIA_SHARE = 320 / 563
# Of the tokens that are no media: a question, its answer, and the template around them.
LABEL_SHARE = 1 / 3
PACK_FILL = 0.95
# Frames are at least min_pixels with so much on top (qvl_data.media.video, which a test compares).
_LEAST_SLACK = 1.05
# A question with the template around it.
PROMPT_TOKENS = 512
# Largest area of a picture by the names of `eval.pixels` (qvl_eval.benchmarks.catalogue, which a test compares).
LARGEST_PIXELS: Mapping[str, int] = {
    "vlmevalkit": 16_384 * 28 * 28,
    "mindspeed": 16_384 * 28 * 28,
    "qwen3-vl": 5_120 * 28 * 28,
    "lmms-eval": 1_605_632,
    "demo": 1_280 * 28 * 28,
}
# Of the settings that lengths depend on, those that a prompt to answer has as well.
_PROMPT_SETTINGS = ("model", "image", "video")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tokens of a sample (a pack, with packing): all, of media among them, with a label; on average and at most.

    `sequences` are the samples of a pack, text attends within each.
    `frames` are the images, and steps in time of videos, that media consist of, on average: vision attends within each,
    of at most `longest_frame` tokens (None: all media of a sample may be one).
    `source` says in a sentence where the numbers come from, `measured` whether from data; `note` why not from data that
    were looked at once.
    """

    tokens: float
    media_tokens: float
    labels: float
    longest: int
    longest_media: int
    longest_labels: int
    source: str
    measured: bool
    sequences: float = 1.0
    frames: float = 1.0
    longest_frame: int | None = None
    note: str = ""


def assumed_workload(
    sequence_length: int, *, packing: bool = False, largest: int | None = None, note: str = ""
) -> Workload:
    """Give what is assumed of data that nobody has looked at; `largest` is the most tokens of an image or a frame."""
    mean = sequence_length * (PACK_FILL if packing else MEAN_SHARE)
    media = mean * MEDIA_SHARE
    sequences = PACK_FILL / MEAN_SHARE if packing else 1.0
    frames = max(sequences, media / largest) if largest else sequences
    cut = f" in images or frames of at most {largest:,}" if frames > sequences else ""
    kind = f"packs filled to {PACK_FILL:.0%}" if packing else f"{mean:.0f} tokens a sample on average"
    return Workload(
        tokens=mean,
        media_tokens=media,
        labels=(mean - media) * LABEL_SHARE,
        longest=sequence_length,
        longest_media=sequence_length,
        longest_labels=sequence_length,
        source=f"assumed: {kind}, {MEDIA_SHARE:.0%} of them media (the reference's 563 of 1,024){cut}, a longest "
        f"sample of {sequence_length:,} tokens; after `qvl data check RECIPE` they are those of the data",
        measured=False,
        sequences=sequences,
        frames=frames,
        longest_frame=largest,
        note=note,
    )


def workload_of(recipe: Recipe, report: str | None = None) -> Workload:
    """Give the lengths of a recipe's data: of the report named, else as they are kept, else assumed.

    Raises DataError for a report that is none, or one of other settings than the recipe's.
    """
    if report is not None:
        return _from_report(Path(report), recipe)
    if recipe.task != "sft":
        return prompts_of(recipe)
    kept = find_lengths(recipe)
    if kept.values is not None:
        try:
            some = f" ({kept.looked_at} of {kept.media:,} media files looked at again)"
            source = f"measured: kept in {kept.file}{some if kept.looked_at < kept.media else ''}"
            return _measured(kept.values, recipe, source)
        except _FigureError as error:
            note = f"{kept.file}: {error}"
    else:
        note = f"{kept.note}; look again with `qvl data check {recipe.path}`" if kept.note else ""
    limit, packing = recipe.data.sequence_length, recipe.data.packing
    return assumed_workload(limit, packing=packing, largest=_largest_frame(recipe), note=note)


def _largest_frame(recipe: Recipe) -> int:
    """Give the most tokens that an image, or a step in time of a video, of a recipe's data has."""
    return _image_tokens(recipe, max(recipe.data.image.max_pixels, recipe.data.video.max_pixels))


def _image_tokens(recipe: Recipe, pixels: float) -> int:
    """Give the most tokens of an image of an area; a step in time of a video, two frames, has as many."""
    vision = recipe.spec.vision
    return max(1, int(pixels // (vision.patch_size * vision.spatial_merge_size) ** 2))


def prompts_of(recipe: Recipe) -> Workload:
    """Give what is assumed of a prompt: one image as large as the recipe allows, or the media that it states; and text.

    `eval.pixels` names limits of its own.
    """
    vision, text = recipe.spec.vision, recipe.spec.text
    largest = recipe.data.image.max_pixels
    if recipe.task != "infer" and recipe.eval is not None and recipe.eval.pixels is not None:
        largest = LARGEST_PIXELS[recipe.eval.pixels]
    images, videos = 1, 0
    if recipe.infer is not None and recipe.infer.prompt is not None:
        videos = len(recipe.infer.videos)
        # Without media of its own it is asked with some: `qvl infer --image`, `qvl chat`.
        images = len(recipe.infer.images) or int(not videos)
    video = recipe.data.video
    pairs = -(-video.max_frames // vision.temporal_patch_size)
    area: float = video.max_pixels
    if video.total_pixels is not None:
        # Frames of a long video get smaller, but not below min_pixels.
        share = video.total_pixels / video.max_frames * vision.temporal_patch_size
        area = min(area, max(share, int(video.min_pixels * _LEAST_SLACK)))
    media = images * _image_tokens(recipe, largest) + videos * _image_tokens(recipe, pairs * area)
    frames = [largest] * (images > 0) + [video.max_pixels] * (videos > 0)
    stated, longest = media + PROMPT_TOKENS, min(media + PROMPT_TOKENS, text.max_position_embeddings)
    cut = f"; cut to the model's {longest:,}" if stated > longest else ""
    sizes = f"{media:,} tokens, and {PROMPT_TOKENS:,} of text{cut}"
    media = min(media, longest)
    kinds = [f"{images} image{'s' * (images > 1)} of max_pixels"] * (images > 0)
    kinds += [f"{videos} video{'s' * (videos > 1)} of max_frames"] * (videos > 0)
    return Workload(
        tokens=longest,
        media_tokens=media,
        labels=1,
        longest=longest,
        longest_media=media,
        longest_labels=1,
        source=f"assumed: prompts of {' and '.join(kinds)}, {sizes}",
        measured=False,
        frames=max(1.0, images + videos * pairs),
        longest_frame=max(_image_tokens(recipe, pixels) for pixels in frames),
    )


class _FigureError(ValueError):
    """Figures that are missing, are no numbers, or do not belong together: `key`, and what about it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key} {message}")
        self.key, self.message = key, message


def _from_report(path: Path, recipe: Recipe) -> Workload:
    limit = recipe.data.sequence_length
    # What is no report may be somebody's data or recipe: the command is to be pasted, and would write over it.
    fix = "qvl data check RECIPE --format json > report.json, then --data-report report.json"
    content = read_json_object(path, error_type=DataError, fix=fix)

    def refuse(key: str, message: str) -> DataError:
        return DataError(Problem(where=str(path), key=key, message=message, fix=fix))

    if content.get("schema") != 1 or "lengths" not in content:
        raise refuse("schema", "is no report of `qvl data check` of format 1")
    fix = f"qvl data check RECIPE --format json > {path}"
    if content["lengths"] is None or content.get("tokens") is None:
        raise refuse("lengths", "has no lengths: the check found no sample that can be used")
    stated = content.get("settings", {})
    stated = stated if isinstance(stated, dict) else {}
    checked_at = stated.get("sequence_length")
    if checked_at != limit:
        raise refuse("settings.sequence_length", f"is {checked_at}, the recipe's data.sequence_length is {limit}")
    if content.get("model", recipe.spec.name) != recipe.spec.name:
        raise refuse("model", f"is {content['model']}, the recipe's is {recipe.spec.name}")
    differing, note = _differing(stated, recipe)
    if differing:
        raise refuse("settings.lengths_depend_on", f"is not the recipe's: {', '.join(differing)}")
    try:
        return replace(_measured(content, recipe, f"measured: {path}"), note=note)
    except _FigureError as error:
        raise refuse(error.key, error.message) from None


def _differing(stated: Mapping[str, Any], recipe: Recipe) -> tuple[list[str], str]:
    """List the settings by which a report's lengths are not the recipe's; and a note where it does not state them."""
    there, here = stated.get("lengths_depend_on"), length_settings(recipe)
    if not isinstance(there, dict):
        return [], "the report is of an earlier version: of its settings, only model and sequence_length were compared"
    compared = sorted(here) if recipe.task == "sft" else _PROMPT_SETTINGS
    return [key for key in compared if here[key] != there.get(key)], ""


def _measured(values: Mapping[str, Any], recipe: Recipe, source: str) -> Workload:
    """Give the lengths that a report states. Raises _FigureError."""
    limit, largest = recipe.data.sequence_length, _largest_frame(recipe)
    mean, longest = (_number(values, "lengths", key) for key in ("mean", "longest"))
    text, total = (_number(values, "tokens", key) for key in ("text", "all"))
    if longest != int(longest) or longest < 1:
        raise _FigureError("lengths.longest", f"is {longest:g}, not a whole number of tokens from 1")
    if not 0 < mean <= longest <= limit or not 0 <= text <= total:
        raise _FigureError(
            "lengths", f"mean {mean:g}, longest {longest:g} at a limit of {limit:,}: do not belong together"
        )
    share = 1 - text / total if total else 0.0
    found = Workload(
        tokens=mean,
        media_tokens=mean * share,
        labels=mean * (1 - share) * LABEL_SHARE,
        longest=int(longest),
        longest_media=int(longest),
        longest_labels=int(longest),
        source=f"{source}: {mean:,.0f} tokens a sample on average, {share:.0%} of them media, at most {longest:,.0f}",
        measured=True,
        frames=max(1.0, mean * share / largest),
        longest_frame=largest,
    )
    # Reports of earlier versions have none.
    if values.get("per_sample") is not None:
        found = _with_labels(found, lambda key: _number(values, "per_sample", key))
    return _packed(found, limit) if recipe.data.packing else found


def _with_labels(load: Workload, figure: Callable[[str], float]) -> Workload:
    """Add what a look at single samples has found."""
    labels, frames = figure("labels"), figure("frames")
    media, text = figure("longest_media"), figure("longest_text")
    if not 0 <= labels <= load.longest or frames < 0 or not 0 <= max(media, text) <= load.longest:
        raise _FigureError("per_sample", "is no part of samples of these lengths")
    return replace(
        load,
        labels=labels,
        frames=max(load.frames, frames),
        longest_media=int(media),
        longest_labels=int(text),
        source=f"{load.source}; about {labels:,.0f} learned, {frames:.2g} images or steps in time of videos",
    )


def _packed(load: Workload, limit: int) -> Workload:
    """Give the packs of samples: filled on average, full at most."""
    samples = limit * PACK_FILL / load.tokens
    return replace(
        load,
        tokens=load.tokens * samples,
        media_tokens=load.media_tokens * samples,
        labels=load.labels * samples,
        sequences=samples,
        frames=load.frames * samples,
        longest=limit,
        longest_media=limit if load.longest_media else 0,
        longest_labels=limit,
        source=f"{load.source}; packs filled to {PACK_FILL:.0%}",
    )


def _number(values: Mapping[str, Any], part: str, key: str) -> float:
    found = values.get(part)
    value = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise _FigureError(f"{part}.{key}", "is missing, or no number")
    return float(value)
