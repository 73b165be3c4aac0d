"""Rules between the keys of [data], and between them and the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_core.errors import Problem
from qvl_core.recipe.draft import Draft
from qvl_core.recipe.problems import error, warning
from qvl_core.specs.model_spec import ModelSpec

VISION_PARTS = ("vision", "merger")


def check_recipe(draft: Draft) -> Iterator[Problem]:
    """Run every check that needs no model spec."""
    yield from check_pixel_bounds(draft)
    yield from check_frame_bounds(draft)
    yield from check_deadlines(draft)
    yield from check_streaming(draft)
    yield from check_vision_cache(draft)


def check_against_spec(draft: Draft, spec: ModelSpec) -> Iterator[Problem]:
    """Run every check between the data and the model's shape."""
    yield from check_pixels_make_a_token(draft, spec)
    yield from check_sequence_length(draft, spec)
    yield from check_media_fit_sequence(draft, spec)


def check_pixel_bounds(draft: Draft) -> Iterator[Problem]:
    """Refuse a smallest area above the largest."""
    for kind in ("image", "video"):
        taken = draft.take(f"data.{kind}.min_pixels", f"data.{kind}.max_pixels")
        if taken and taken[0] > taken[1]:
            message = f"is {taken[0]}, more than max_pixels = {taken[1]}"
            yield error(f"data.{kind}.min_pixels", message, f"min_pixels = {taken[1]}")


def check_frame_bounds(draft: Draft) -> Iterator[Problem]:
    """Refuse fewer frames at most than at least."""
    taken = draft.take("data.video.min_frames", "data.video.max_frames")
    if taken and taken[0] > taken[1]:
        message = f"is {taken[0]}, more than max_frames = {taken[1]}"
        yield error("data.video.min_frames", message, f"min_frames = {taken[1]}")


def check_deadlines(draft: Draft) -> Iterator[Problem]:
    """Warn where a sample has to be made before its video may have been decoded: the run stops, not the decoder."""
    taken = draft.take("data.video.timeout_s", "data.sample_timeout_s")
    if taken and taken[0] >= taken[1]:
        message = f"is {taken[1]:g}, not more than data.video.timeout_s = {taken[0]:g}: a slow video stops the run"
        yield warning("data.sample_timeout_s", message, f"sample_timeout_s = {10 * taken[0]:g}")


def check_streaming(draft: Draft) -> Iterator[Problem]:
    """Refuse what needs all records to be known before the first step."""
    taken = draft.take("task", "data.streaming")
    if taken is None or taken != ("sft", True):
        return
    validation = draft.take("data.validation.fraction")
    if validation is not None and validation[0] is not None:
        message = f"is {validation[0]}, but with data.streaming nobody knows how many samples there are"
        yield error("data.validation.fraction", message, 'validation = { path = "data/val.jsonl" }')
    counted = draft.take("train.epochs", "data.packing")
    if counted is not None and counted[0] is not None and counted[1]:
        message = f"is {counted[0]}, but how many packs streamed data make is known only when all of it was tokenised"
        yield error("train.epochs", message, "steps = 10000 instead of epochs, under [train]")
    policy = draft.take("data.too_long")
    if policy is not None and policy[0] == "error":
        message = 'is "error", and data.streaming checks nothing before the run: it stops at the first such sample'
        yield warning("data.too_long", message, 'too_long = "drop", or check the data first: qvl data check RECIPE')


def check_vision_cache(draft: Draft) -> Iterator[Problem]:
    """Refuse to keep features that training would change, and where nobody knows which media there are."""
    taken = draft.take("task", "data.vision_cache")
    if taken != ("sft", True):
        return
    streaming = draft.take("data.streaming")
    if streaming == (True,):
        message = "keeps features of all media before the first step, but with data.streaming nobody knows them by then"
        yield error("data.vision_cache", message, "vision_cache = false, or streaming = false")
    if draft.states("train.lora"):
        adapted = draft.take("train.lora.components")
        names = [name for name in VISION_PARTS if adapted is not None and name in adapted[0]]
        if names:
            message = (
                f"keeps features of vision and merger, but {' and '.join(names)} {_is(names)} adapted by train.lora"
            )
            yield error("data.vision_cache", message, 'components = ["text"] under [train.lora]')
        return
    frozen = draft.take("model.freeze")
    trained = [name for name in VISION_PARTS if frozen is not None and name not in frozen[0]]
    if trained:
        message = f"keeps features of vision and merger, but {' and '.join(trained)} {_is(trained)} trained"
        yield error("data.vision_cache", message, 'freeze = ["vision", "merger"] under [model]')


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def check_pixels_make_a_token(draft: Draft, spec: ModelSpec) -> Iterator[Problem]:
    """Refuse a largest area below one merged patch."""
    side = spec.vision.patch_size * spec.vision.spatial_merge_size
    for kind in ("image", "video"):
        taken = draft.take(f"data.{kind}.max_pixels")
        if taken and taken[0] < side**2:
            message = f"is {taken[0]}; one token of {spec.name} covers {side} x {side} = {side**2} pixels"
            yield error(f"data.{kind}.max_pixels", message, f"max_pixels = {side**2} or more")


def check_sequence_length(draft: Draft, spec: ModelSpec) -> Iterator[Problem]:
    """Refuse samples longer than the model's context."""
    taken = draft.take("task", "data.sequence_length")
    limit = spec.text.max_position_embeddings
    if taken and taken[0] == "sft" and taken[1] > limit:
        message = f"is {taken[1]}; the context of {spec.name} is {limit} tokens"
        yield error("data.sequence_length", message, f"sequence_length = {limit}")


def check_media_fit_sequence(draft: Draft, spec: ModelSpec) -> Iterator[Problem]:
    """Warn where one image of the largest area fills a whole sample: such samples would all be dropped."""
    taken = draft.take("task", "data.sequence_length", "data.image.max_pixels", "data.too_long")
    if taken is None or taken[0] != "sft" or taken[3] == "shrink":
        return
    side = spec.vision.patch_size * spec.vision.spatial_merge_size
    tokens = taken[2] // side**2
    if tokens >= taken[1]:
        message = f"is {taken[1]}, but one image of data.image.max_pixels = {taken[2]} has about {tokens} tokens"
        fix = f"max_pixels = {taken[1] // 2 * side**2} under [data.image], or a longer sequence_length"
        yield warning("data.sequence_length", message, fix)
