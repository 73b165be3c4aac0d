"""The tokenizer, chat template and image rules of a checkpoint folder, checked against the model's spec.

Only local files are read, and no code that lies in the folder is run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, read_regular_file
from qvl_core.json_file import read_json_object
from qvl_core.recipe.sections import VideoSection
from qvl_core.specs.load import CONFIG_NAME, load_spec
from qvl_core.specs.model_spec import ModelSpec, VisionSpec

from qvl_data.chat import ChatError, ChatTokenizer
from qvl_data.media.facts import MediaFacts, MediaFile
from qvl_data.media.images import ImageFacts
from qvl_data.media.pixels import ImageRules, normalised_levels
from qvl_data.media.video import VideoRules

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe
    from transformers import PreTrainedTokenizerBase

_BICUBIC = 3
_TEMPLATE_LIMIT = 1024**2
# What the published processors do where the file does not say.
_DEFAULTS: Mapping[str, Any] = {
    "rescale_factor": 1 / 255,
    "resample": _BICUBIC,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What turns records and questions into model input."""

    folder: Path
    spec: ModelSpec
    chat: ChatTokenizer
    images: ImageRules
    videos: VideoRules
    video_timeout_s: float

    def grid(self, facts: MediaFacts, max_pixels: int | None = None) -> tuple[int, int, int]:
        """Give the grid (t, h, w), in patches, that an image or video becomes. Raises GeometryError.

        `max_pixels` lowers the limit of the media of one sample (the policy `shrink`), down to the smallest area of
        each kind.
        """
        if isinstance(facts, ImageFacts):
            return self.images.grid(facts.height, facts.width, self.image_limit(max_pixels))
        return self.videos.grid(facts, self.video_limit(max_pixels))

    def image_limit(self, max_pixels: int | None) -> int | None:
        """Give the limit that holds for images when `max_pixels` is that of the sample."""
        return None if max_pixels is None else _between(max_pixels, self.images.min_pixels, self.images.max_pixels)

    def video_limit(self, max_pixels: int | None) -> int | None:
        """Give the limit that holds for frames when `max_pixels` is that of the sample."""
        return None if max_pixels is None else _between(max_pixels, self.videos.min_pixels, self.videos.max_pixels)

    def pixel_range(self, files: Sequence[MediaFile]) -> tuple[int, int]:
        """Give the smallest and largest limit that makes a difference to media of these kinds."""
        kinds = {file.kind for file in files} or {"image"}
        rules = [rule for kind, rule in (("image", self.images), ("video", self.videos)) if kind in kinds]
        return min(rule.min_pixels for rule in rules), max(rule.max_pixels for rule in rules)


def processor_of(recipe: Recipe) -> Processor:
    """Read the processor of a recipe's weights, with the recipe's pixel limits and sampling. Raises WeightsError."""
    image = recipe.data.image
    return load_processor(
        recipe.weights.source,
        recipe.spec,
        min_pixels=image.min_pixels,
        max_pixels=image.max_pixels,
        video=recipe.data.video,
    )


def load_processor(
    folder: Path | str, spec: ModelSpec, *, min_pixels: int, max_pixels: int, video: VideoSection | None = None
) -> Processor:
    """Read tokenizer, chat template and image processor of a weights folder; the pixel limits are the recipe's.

    Without `video`, videos are sampled as a recipe's defaults say. Raises WeightsError if a file is missing,
    unreadable, or does not fit the spec.
    """
    folder = Path(folder)
    if not folder.is_dir():
        _refuse(folder, "there is no such folder", fix="weights.source names the checkpoint's folder")
    images = _image_rules(folder, spec.vision, min_pixels, max_pixels)
    _check_video_config(folder, spec.vision, images)
    tokenizer = _load_tokenizer(folder)
    if len(tokenizer) > spec.text.vocab_size:
        _refuse(folder, f"the tokenizer has {len(tokenizer):,} tokens, the model {spec.text.vocab_size:,}")
    template = _chat_template(folder, tokenizer)
    try:
        chat = ChatTokenizer(tokenizer, template, spec.tokens)
    except ChatError as error:
        _refuse(folder, str(error))
    video = video or VideoSection()
    return Processor(
        folder=folder,
        spec=_with_position_rule(spec, folder),
        chat=chat,
        images=images,
        videos=VideoRules(
            vision=spec.vision,
            levels=images.levels,
            sampling=video.sampling,
            fps=video.fps,
            min_frames=video.min_frames,
            max_frames=video.max_frames,
            min_pixels=video.min_pixels,
            max_pixels=video.max_pixels,
            total_pixels=video.total_pixels,
        ),
        video_timeout_s=video.timeout_s,
    )


def _between(value: int, smallest: int, largest: int) -> int:
    return max(smallest, min(value, largest))


def _with_position_rule(spec: ModelSpec, folder: Path) -> ModelSpec:
    # The recipe names a size; which positions the weights were trained with, only their own folder knows.
    return replace(spec, position_rule=load_spec(folder).position_rule) if (folder / CONFIG_NAME).is_file() else spec


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not (folder / "tokenizer.json").is_file():
        _refuse(
            folder, "there is no tokenizer.json", fix="copy tokenizer.json and tokenizer_config.json of the checkpoint"
        )
    with _without_idle_advice():
        from transformers import AutoTokenizer
    try:
        with _without_idle_advice():
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder.resolve()), local_files_only=True, trust_remote_code=False, use_fast=True
            )
    except Exception as error:  # transformers raises many kinds for damaged files; the text is shown.
        _refuse(folder, f"the tokenizer cannot be loaded: {printable(str(error))}")
    return tokenizer


@contextmanager
def _without_idle_advice() -> Iterator[None]:
    """Keep transformers from advising to install PyTorch, which nothing here wants, and from judging the config.

    The model's config says nothing about a tokenizer; what of it counts is checked against the spec.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in ("PyTorch", "Model config:"))

    logger = logging.getLogger("transformers")
    # A logger's filters do not see what its children say; its handlers' do.
    places: list[logging.Filterer] = [logger, *logger.handlers]
    for place in places:
        place.addFilter(is_wanted)
    try:
        yield
    finally:
        for place in places:
            place.removeFilter(is_wanted)


def _chat_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Find the template where transformers' processors look: its own file, the processor's file, the tokenizer's."""
    own = folder / "chat_template.jinja"
    if own.exists():
        data = read_regular_file(own, limit=_TEMPLATE_LIMIT, error_type=WeightsError)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            _refuse(own, "not UTF-8 text")
    older = folder / "chat_template.json"
    template: object = tokenizer.chat_template
    if older.exists():
        template = read_json_object(older, error_type=WeightsError).get("chat_template")
    if not isinstance(template, str) or not template.strip():
        _refuse(
            folder, "there is no chat template", fix="copy chat_template.json or chat_template.jinja of the checkpoint"
        )
    return template


def _image_rules(folder: Path, vision: VisionSpec, min_pixels: int, max_pixels: int) -> ImageRules:
    path = folder / "preprocessor_config.json"
    if path.exists():
        config = read_json_object(path, error_type=WeightsError)
    else:
        path = folder / "processor_config.json"
        if not path.exists():
            _refuse(
                folder, "there is no preprocessor_config.json", fix="copy preprocessor_config.json of the checkpoint"
            )
        nested = read_json_object(path, error_type=WeightsError).get("image_processor")
        config = nested if isinstance(nested, dict) else {}
    settings = {**_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    problems = [*_size_problems(path, settings, vision), *_step_problems(path, settings)]
    mean, deviation = (
        _channel_values(path, settings[key], vision, key, problems) for key in ("image_mean", "image_std")
    )
    rescale = settings["rescale_factor"]
    if not isinstance(rescale, int | float) or not 0 < rescale <= 1:
        problems.append(Problem(where=str(path), key="rescale_factor", message=f"is {rescale!r}; expected 0 to 1"))
    if problems:
        raise WeightsError(problems)
    levels = normalised_levels(mean, deviation, rescale)
    return ImageRules(vision=vision, min_pixels=min_pixels, max_pixels=max_pixels, levels=levels)


def _check_video_config(folder: Path, vision: VisionSpec, images: ImageRules) -> None:
    """Raise WeightsError if frames of videos are to be prepared in another way than images, where a file says so."""
    path = folder / "video_preprocessor_config.json"
    if not path.exists():
        return
    config = read_json_object(path, error_type=WeightsError)
    settings = {**_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    problems = _size_problems(path, settings, vision)
    mean, deviation = (
        _channel_values(path, settings[key], vision, key, problems) for key in ("image_mean", "image_std")
    )
    if not problems and not np.array_equal(
        normalised_levels(mean, deviation, settings["rescale_factor"]), images.levels
    ):
        message = (
            "normalises frames otherwise than preprocessor_config.json does images; the model has one vision tower"
        )
        problems.append(Problem(where=str(path), key="image_mean, image_std", message=message))
    if problems:
        raise WeightsError(problems)


def _size_problems(path: Path, settings: Mapping[str, Any], vision: VisionSpec) -> list[Problem]:
    wanted = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    return [
        Problem(where=str(path), key=key, message=f"is {settings[key]!r}; the model has {value}")
        for key, value in wanted.items()
        if key in settings and settings[key] != value
    ]


def _step_problems(path: Path, settings: Mapping[str, Any]) -> list[Problem]:
    wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": _BICUBIC}
    return [
        Problem(where=str(path), key=key, message=f"is {settings[key]!r}; only {value!r} is supported")
        for key, value in wanted.items()
        if settings[key] != value
    ]


def _channel_values(
    path: Path, value: object, vision: VisionSpec, key: str, problems: list[Problem]
) -> tuple[float, ...]:
    """Give one number per channel; add a problem and give ones for anything else."""
    numbers = [value] * vision.in_channels if isinstance(value, int | float) else value
    found: tuple[float, ...] = ()
    if isinstance(numbers, list) and all(isinstance(number, int | float) for number in numbers):
        found = tuple(float(number) for number in numbers)
    wanted = f"{vision.in_channels} numbers" + (" above 0" if key == "image_std" else "")
    if len(found) == vision.in_channels and (key != "image_std" or min(found) > 0):
        return found
    problems.append(Problem(where=str(path), key=key, message=f"is {value!r}; expected {wanted}"))
    return (1.0,) * vision.in_channels


def _refuse(where: Path, message: str, fix: str = "") -> NoReturn:
    raise WeightsError(Problem(where=printable(str(where)), message=message, fix=fix))
