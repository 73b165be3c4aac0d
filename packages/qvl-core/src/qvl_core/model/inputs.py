# ruff: noqa: N815 (shape suffixes on fields)
"""From HF-style arguments (padded rows, images and videos apart) to one flat `Batch`. numpy only.

Legend: B rows, T tokens in a padded row, F tokens that are not padding (flat), N images and videos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvl_core import geometry
from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import DataError, Problem
from qvl_core.specs.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The flat batch, and the way back: `kept_F` is the place of each of its tokens in the padded rows laid flat."""

    batch: Batch
    shape: tuple[int, int]  # B, T
    kept_F: NDArray[np.int64]


def flatten_prompt(
    spec: ModelSpec,
    input_ids: ArrayLike,
    *,
    attention_mask: ArrayLike | None = None,
    pixel_values: ArrayLike | None = None,
    image_grid_thw: ArrayLike | None = None,
    pixel_values_videos: ArrayLike | None = None,
    video_grid_thw: ArrayLike | None = None,
    second_per_grid_ts: ArrayLike | None = None,
    position_ids: ArrayLike | None = None,
    mm_token_type_ids: ArrayLike | None = None,
) -> Prompt:
    """Drop the padding (either side), put image and video patches in the order of their tokens, find positions.

    `mm_token_type_ids` (0 text, 1 image, 2 video; newer HF processors give it) says nothing that the ids do not say,
    and has to agree with them. Raises DataError if an array's shape, an id or the number of image or video tokens does
    not fit.
    """
    ids_BT = _integers("input_ids", input_ids, 2)
    mask_BT = np.ones_like(ids_BT) if attention_mask is None else _integers("attention_mask", attention_mask, 2)
    if mask_BT.shape != ids_BT.shape:
        _refuse("attention_mask", f"has shape {mask_BT.shape}; input_ids has {ids_BT.shape}")
    lengths = tuple(int(count) for count in (mask_BT != 0).sum(axis=1))
    if not lengths or min(lengths) == 0:
        _refuse("attention_mask", "leaves a row without any token", "drop the empty row")
    images = _grids("image_grid_thw", image_grid_thw)
    videos = _grids("video_grid_thw", video_grid_thw)
    kept_F = np.flatnonzero(mask_BT != 0)
    ids_F = ids_BT.reshape(-1)[kept_F]
    _check_ids(spec, ids_F, mm_token_type_ids, kept_F, ids_BT.shape)
    order = _order_of_appearance(spec, ids_F, images, videos)
    if position_ids is None:
        positions: NDArray[np.integer] = _positions(spec, ids_BT, mask_BT, images, videos, second_per_grid_ts)
    else:
        positions = _integers("position_ids", position_ids, 3)
        if positions.shape != (3, *ids_BT.shape):
            _refuse("position_ids", f"has shape {positions.shape}; input_ids need {(3, *ids_BT.shape)}")
    batch = Batch(
        input_ids=ids_F.astype(np.int32),
        position_ids=np.ascontiguousarray(positions.reshape(3, -1)[:, kept_F], np.int32),
        sequence_lengths=lengths,
        labels=np.full(len(ids_F), IGNORE, np.int32),
        patches=_ordered_patches(spec, order, images, videos, pixel_values, pixel_values_videos),
        grids=np.concatenate((images, videos))[order].astype(np.int32),
    )
    shape = (ids_BT.shape[0], ids_BT.shape[1])
    return Prompt(batch=batch, shape=shape, kept_F=kept_F)


def _check_ids(
    spec: ModelSpec,
    ids_F: NDArray[np.int64],
    mm_token_type_ids: ArrayLike | None,
    kept_F: NDArray[np.int64],
    shape: tuple[int, ...],
) -> None:
    # The lookup itself does not: on CPU a row outside the table is silently zero.
    outside = ids_F[(ids_F < 0) | (ids_F >= spec.text.vocab_size)]
    if len(outside):
        _refuse("input_ids", f"holds {outside[0]}; the vocabulary of {spec.text.vocab_size} has 0 and up")
    if mm_token_type_ids is None:
        return
    kinds_BT = _integers("mm_token_type_ids", mm_token_type_ids, 2)
    if kinds_BT.shape != shape:
        _refuse("mm_token_type_ids", f"has shape {kinds_BT.shape}; input_ids has {shape}")
    wanted_F = (ids_F == spec.tokens.image) + 2 * (ids_F == spec.tokens.video)
    wrong = np.count_nonzero(kinds_BT.reshape(-1)[kept_F] != wanted_F)
    if wrong:
        _refuse("mm_token_type_ids", f"disagrees with the image and video ids in input_ids at {wrong} tokens")


def _positions(
    spec: ModelSpec,
    ids_BT: NDArray[np.int64],
    mask_BT: NDArray[np.int64],
    images: NDArray[np.int64],
    videos: NDArray[np.int64],
    second_per_grid_ts: ArrayLike | None,
) -> NDArray[np.int32]:
    try:
        positions, _ = geometry.mrope_positions(ids_BT, mask_BT, images, videos, second_per_grid_ts, spec)
    except geometry.GeometryError as error:
        raise DataError(Problem(where="model input", key="input_ids", message=str(error))) from error
    return positions


def _order_of_appearance(
    spec: ModelSpec, ids_F: NDArray[np.int64], images: NDArray[np.int64], videos: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give the order [N] that sorts images, then videos, by the place of their first token."""
    first: list[NDArray[np.int64]] = []
    for kind, token, grids in (("image", spec.tokens.image, images), ("video", spec.tokens.video, videos)):
        places = np.flatnonzero(ids_F == token)
        counts = grids.prod(axis=1) // spec.vision.merge_unit
        if counts.sum() != len(places):
            _refuse(
                "input_ids",
                f"holds {len(places)} {kind} tokens (id {token}); "
                f"the {len(grids)} grids of {kind}s need {counts.sum()}",
                f"repeat the {kind} token t * h * w / {spec.vision.merge_unit} times for each grid",
            )
        starts = np.cumsum(counts) - counts
        ends = starts + counts - 1
        if len(places) and np.any(places[ends] - places[starts] != counts - 1):
            _refuse("input_ids", f"the tokens of one {kind} are not next to each other")
        first.append(places[starts] if len(places) else np.zeros(0, np.int64))
    return np.argsort(np.concatenate(first), kind="stable")


def _ordered_patches(
    spec: ModelSpec,
    order: NDArray[np.int64],
    images: NDArray[np.int64],
    videos: NDArray[np.int64],
    pixel_values: ArrayLike | None,
    pixel_values_videos: ArrayLike | None,
) -> NDArray[np.float32]:
    blocks: list[NDArray[np.float32]] = []
    for name, values, grids in (
        ("pixel_values", pixel_values, images),
        ("pixel_values_videos", pixel_values_videos, videos),
    ):
        counts = grids.prod(axis=1)
        width = spec.vision.patch_dim
        patches = np.zeros((0, width), np.float32) if values is None else _numbers(name, values)
        if patches.shape != (counts.sum(), width):
            _refuse(name, f"has shape {patches.shape}; the {len(grids)} grids need {(int(counts.sum()), width)}")
        blocks += np.split(patches, np.cumsum(counts)[:-1]) if len(grids) else []
    if not blocks:
        return np.zeros((0, spec.vision.patch_dim), np.float32)
    return blocks[0] if len(blocks) == 1 else np.concatenate([blocks[place] for place in order])


def _grids(name: str, values: ArrayLike | None) -> NDArray[np.int64]:
    grids = np.zeros((0, 3), np.int64) if values is None else _integers(name, values, 2)
    if grids.shape[1] != 3:
        _refuse(name, f"has shape {grids.shape}; each row is time, height, width in patches")
    return grids


def _integers(name: str, values: ArrayLike, dims: int) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError:
        _refuse(name, "has rows of different lengths", "pad them, and say where in attention_mask")
    if array.ndim != dims or array.dtype.kind not in "iub":
        _refuse(name, f"is {array.dtype} of shape {array.shape}; {dims} dims of integers are needed")
    return array.astype(np.int64)


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float32]:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        _refuse(name, f"is not an array of numbers: {error}")


def _refuse(key: str, message: str, fix: str = "") -> NoReturn:
    raise DataError(Problem(where="model input", key=key, message=message, fix=fix))
