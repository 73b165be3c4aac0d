"""M-RoPE positions: time, height and width of every token, for any mix of text, images and videos.

Shapes: B rows, T tokens, N images and videos. Qwen2-VL (arXiv 2409.12191), section 2.1, with the absolute time of
Qwen2.5-VL (arXiv 2502.13923), section 2.1.1:

- text: the three axes are equal and advance by 1 per token;
- image: time stays at the start, rows and columns count merged patches from the start;
- video: as an image, and slice i lies int(i * seconds_per_grid * tokens_per_second) after the start, a float32
  product that is cut to an integer only at the end (0.5 s per slice gives 0, 1, 2, ..., not 0, 0, 0, ...);
- video whose frames are not evenly spaced: slice i lies int(slice_seconds[i] * tokens_per_second) after the start, the
  same product with the time at which the slice begins instead of i * seconds_per_grid. HF has no such rule;
- what follows an image or a video starts at the largest position so far, on any axis, plus 1.

Other rules in circulation. Many transformers releases before 5.23 cut the seconds to an integer before multiplying
(pull request 48669 mended it); 5.3 gave all slices of a video one time (issue 45381) and scaled the time of still
images (issue 45325). Since the rewrite in 5.3, text after a video starts at the start of the video plus
max(rows, columns), although the video's times may reach further. The rule above is the paper's and that of the
authors' own port (pull request 35569): `"paper"`, with which the published checkpoints were trained. A checkpoint that
transformers 5 has written is run with the rule of transformers 5.23, `"transformers5"`, also at padding: the two differ
only after a video whose time outruns its sides. `ModelSpec.position_rule` holds which; an argument `rule` overrides it.
Where tokens_per_second is a power of two (2 in every released model) the order of the two float32 products does not
matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvl_core.geometry.errors import GeometryError
from qvl_core.geometry.resize import checked_grids
from qvl_core.specs.model_spec import ModelSpec, PositionRule

SliceSeconds = Sequence[ArrayLike | None]
"""For each grid the seconds from its first temporal slice to each, [t], or None where they are evenly spaced."""

_IMAGE, _VIDEO = 1, 2
_LAST_EXACT_POSITION = 2**24
_KIND_NAMES = {_IMAGE: "image", _VIDEO: "video"}


def sample_positions(
    input_ids: NDArray[np.integer],
    grids: ArrayLike,
    seconds_per_grid: ArrayLike | None,
    spec: ModelSpec,
    *,
    sample_id: str = "",
    rule: PositionRule | None = None,
    slice_seconds: SliceSeconds | None = None,
) -> NDArray[np.int32]:
    """Return the positions, int32 [3, T], of one un-padded sample [T].

    `grids` [N, 3] and `seconds_per_grid` [N] come in the order in which their placeholder tokens appear; the seconds
    of an image are ignored, and without any seconds a slice lasts 1 s. `slice_seconds` [N] may hold, for a video of
    variable frame rate, the seconds [t] from its first slice to each; None elsewhere. Raises GeometryError if the
    placeholder tokens are not exactly those of the grids.
    """
    return packed_positions(
        input_ids,
        (len(input_ids),),
        grids,
        seconds_per_grid,
        spec,
        sample_ids=(sample_id or "?",),
        rule=rule,
        slice_seconds=slice_seconds,
    )


def packed_positions(
    input_ids: NDArray[np.integer],
    sequence_lengths: Sequence[int],
    grids: ArrayLike,
    seconds_per_grid: ArrayLike | None,
    spec: ModelSpec,
    *,
    sample_ids: Sequence[str] | None = None,
    rule: PositionRule | None = None,
    slice_seconds: SliceSeconds | None = None,
) -> NDArray[np.int32]:
    """Return the positions, int32 [3, T], of samples packed one after another; each starts again at 0.

    `sequence_lengths` adds up to T; `grids`, `seconds_per_grid` and `slice_seconds` run through all samples.
    Equal to the positions of the separate samples, side by side. Raises GeometryError as `sample_positions` does,
    naming the sample.
    """
    rule = rule or spec.position_rule
    input_ids = np.asarray(input_ids)
    if sum(sequence_lengths) != len(input_ids):
        raise GeometryError(f"sequence lengths add up to {sum(sequence_lengths)}; there are {len(input_ids)} tokens")
    names = _names(sample_ids, len(sequence_lengths))
    label = names[0] if len(names) == 1 else f"the pack of {len(names)}"
    grids_N3 = _grids_of(grids, spec, label)
    kinds_T = _kinds(input_ids, spec)
    _check_count(int(np.count_nonzero(kinds_T)), grids_N3, spec, "image and video", label)
    seconds_N = _seconds_of(seconds_per_grid, len(grids_N3), label)
    queue = _queue(grids_N3, seconds_N, _slice_seconds_of(slice_seconds, grids_N3, label))
    queues = {_IMAGE: queue, _VIDEO: queue}
    blocks = [np.zeros((3, 0), np.int32)]
    stop = 0
    for name, length in zip(names, sequence_lengths, strict=True):
        start, stop = stop, stop + length
        blocks.append(_positions(kinds_T[start:stop], queues, spec, name, rule))
    return np.concatenate(blocks, axis=1)


def mrope_positions(
    input_ids: NDArray[np.integer],
    attention_mask: NDArray[np.integer] | None,
    image_grids: ArrayLike | None,
    video_grids: ArrayLike | None,
    seconds_per_grid: ArrayLike | None,
    spec: ModelSpec,
    *,
    sample_ids: Sequence[str] | None = None,
    rule: PositionRule | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the positions, int32 [3, B, T], of padded rows [B, T], and their rope deltas, int32 [B].

    `attention_mask` is 0 at padding, left, right or both. Grids [N, 3] come per kind and in row order, as the HF
    processor gives them; `seconds_per_grid` belongs to the videos only. Padding gets position 1 (0 under
    "transformers5"). A row's delta plus its count of real tokens is the position of the token that comes next.
    Raises GeometryError if the placeholder tokens are not exactly those of the grids.
    """
    rule = rule or spec.position_rule
    input_ids = np.asarray(input_ids)
    rows, length = input_ids.shape
    names = _names(sample_ids, rows)
    real_BT = np.ones((rows, length), bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
    kinds_BT = np.where(real_BT, _kinds(input_ids, spec), 0)
    label = names[0] if rows == 1 else f"the batch of {rows}"
    images_N3 = _grids_of(() if image_grids is None else image_grids, spec, label)
    videos_N3 = _grids_of(() if video_grids is None else video_grids, spec, label)
    _check_count(int(np.count_nonzero(kinds_BT == _IMAGE)), images_N3, spec, "image", label)
    _check_count(int(np.count_nonzero(kinds_BT == _VIDEO)), videos_N3, spec, "video", label)
    queues = {
        _IMAGE: _queue(images_N3, np.zeros(len(images_N3)), [None] * len(images_N3)),
        _VIDEO: _queue(videos_N3, _seconds_of(seconds_per_grid, len(videos_N3), label), [None] * len(videos_N3)),
    }
    positions = np.full((3, rows, length), 1 if rule == "paper" else 0, np.int32)
    deltas = np.zeros(rows, np.int32)
    for row in range(rows):
        real = real_BT[row]
        row_positions = _positions(kinds_BT[row, real], queues, spec, names[row], rule)
        positions[:, row, real] = row_positions
        deltas[row] = rope_delta(row_positions)
    return positions, deltas


def rope_delta(positions: NDArray[np.int32]) -> int:
    """Return by how much the next position of a sample with positions [3, T] exceeds its T tokens (mostly below 0)."""
    return int(positions.max(initial=-1)) + 1 - positions.shape[1]


def next_positions(token_counts: ArrayLike, rope_deltas: ArrayLike) -> NDArray[np.int32]:
    """Return the positions, int32 [3, B], of one new text token per row, `token_counts` [B] real tokens into it."""
    following = np.asarray(token_counts, np.int32) + np.asarray(rope_deltas, np.int32)
    return np.broadcast_to(following, (3, *following.shape)).copy()


# --- spans ------------------------------------------------------------------------------------------------------------

_Times = NDArray[np.float64] | None
_Queue = Iterator[tuple[list[int], float, _Times]]


@dataclass(frozen=True, kw_only=True)
class _Span:
    """One image or video: the tokens [start, stop), its merged grid, its positions per temporal slice.

    `slice_starts` [slices] are the positions, not yet cut to integers, where they are not evenly spaced.
    """

    start: int
    stop: int
    slices: int
    rows: int
    columns: int
    interval: float
    slice_starts: NDArray[np.float32] | None


def _queue(grids_N3: NDArray[np.int64], seconds_N: NDArray[np.float64], slice_seconds: Sequence[_Times]) -> _Queue:
    return iter(list(zip(grids_N3.tolist(), seconds_N.tolist(), slice_seconds, strict=True)))


def _names(sample_ids: Sequence[str] | None, count: int) -> Sequence[str]:
    names = [str(index) for index in range(count)] if sample_ids is None else sample_ids
    if len(names) != count:
        raise GeometryError(f"{len(names)} sample ids for {count} samples")
    return names


def _kinds(input_ids: NDArray[np.integer], spec: ModelSpec) -> NDArray[np.int8]:
    kinds = np.zeros(input_ids.shape, np.int8)
    kinds[input_ids == spec.tokens.image] = _IMAGE
    kinds[input_ids == spec.tokens.video] = _VIDEO
    return kinds


def _positions(
    kinds_T: NDArray[np.int8], queues: dict[int, _Queue], spec: ModelSpec, sample_id: str, rule: PositionRule
) -> NDArray[np.int32]:
    """Walk the spans; the work per span is vectorised, and the count of spans is small."""
    positions = np.empty((3, len(kinds_T)), np.int32)
    at = 0
    token = 0
    for span in _spans(kinds_T, queues, spec, sample_id, rule):
        positions[:, token : span.start] = np.arange(at, at + span.start - token, dtype=np.int32)
        at += span.start - token
        times = _slice_times(span)
        block = positions[:, span.start : span.stop].reshape(3, span.slices, span.rows, span.columns)
        block[0] = at + times[:, None, None]
        block[1] = at + np.arange(span.rows, dtype=np.int32)[:, None]
        block[2] = at + np.arange(span.columns, dtype=np.int32)
        positions[:, span.start : span.stop] = block.reshape(3, -1)
        reach = max(span.rows, span.columns)
        at += max(reach, int(times.max()) + 1) if rule == "paper" else reach
        token = span.stop
    positions[:, token:] = np.arange(at, at + len(kinds_T) - token, dtype=np.int32)
    return positions


def _slice_times(span: _Span) -> NDArray[np.int32]:
    # float32, because the published model multiplies in float32: 64-bit products truncate differently now and then.
    steps = span.slice_starts
    if steps is None:
        steps = np.arange(span.slices, dtype=np.float32) * np.float32(span.interval)
    if steps[-1] > _LAST_EXACT_POSITION:
        raise GeometryError(
            f"a video of {span.slices} slices, {steps[-1] / max(span.slices - 1, 1):g} positions apart, "
            f"reaches position {steps[-1]:.0f}; float32 holds whole numbers up to {_LAST_EXACT_POSITION}"
        )
    return steps.astype(np.int32)


def _spans(
    kinds_T: NDArray[np.int8], queues: dict[int, _Queue], spec: ModelSpec, sample_id: str, rule: PositionRule
) -> Iterator[_Span]:
    """Cut each run of equal placeholder tokens into the grids that fill it."""
    merge = spec.vision.spatial_merge_size
    borders = np.flatnonzero(np.diff(kinds_T)) + 1
    run_starts = [0, *borders.tolist()] if len(kinds_T) else []
    stops = [*run_starts[1:], len(kinds_T)]
    for start, run_stop in zip(run_starts, stops, strict=False):
        kind = int(kinds_T[start])
        while kind and start < run_stop:
            (slices, rows, columns), seconds, starts = next(queues[kind], ([0, 0, 0], 0.0, None))
            stop = start + slices * rows * columns // merge**2
            if stop > run_stop or stop == start:
                raise GeometryError(
                    f"sample {sample_id}: {run_stop - start} {_KIND_NAMES[kind]} placeholder tokens from token "
                    f"{start} on, but the next grid, t={slices}, h={rows}, w={columns}, needs {stop - start}"
                )
            yield _Span(
                start=start,
                stop=stop,
                slices=slices,
                rows=rows // merge,
                columns=columns // merge,
                interval=_interval(kind, seconds, spec, rule),
                slice_starts=_slice_starts(kind, starts, spec),
            )
            start = stop


def _interval(kind: int, seconds: float, spec: ModelSpec, rule: PositionRule) -> float:
    if kind == _VIDEO:
        return spec.vision.tokens_per_second * seconds
    # The grid of an image has one slice; only a hand-made grid with more can tell the two rules apart.
    return 0.0 if rule == "paper" else 1.0


def _slice_starts(kind: int, seconds_t: _Times, spec: ModelSpec) -> NDArray[np.float32] | None:
    if kind != _VIDEO or seconds_t is None:
        return None
    # float32, as for even spacing, so that a video that happens to be even has the positions of an even one.
    return seconds_t.astype(np.float32) * np.float32(spec.vision.tokens_per_second)


# --- checks -----------------------------------------------------------------------------------------------------------


def _grids_of(grids: ArrayLike, spec: ModelSpec, sample_id: str) -> NDArray[np.int64]:
    try:
        return checked_grids(grids, spec.vision.spatial_merge_size)
    except GeometryError as error:
        raise GeometryError(f"sample {sample_id}: {error}") from error


def _seconds_of(seconds_per_grid: ArrayLike | None, count: int, sample_id: str) -> NDArray[np.float64]:
    if seconds_per_grid is None:
        return np.ones(count)
    seconds_N = np.asarray(seconds_per_grid, np.float64).reshape(-1)
    if len(seconds_N) != count:
        raise GeometryError(f"sample {sample_id}: {len(seconds_N)} seconds per grid for {count} grids")
    if not (np.isfinite(seconds_N) & (seconds_N >= 0)).all():
        raise GeometryError(f"sample {sample_id}: seconds per grid {seconds_N.tolist()} must be finite and >= 0")
    return seconds_N


def _slice_seconds_of(
    slice_seconds: SliceSeconds | None, grids_N3: NDArray[np.int64], sample_id: str
) -> Sequence[_Times]:
    if slice_seconds is None:
        return [None] * len(grids_N3)
    if len(slice_seconds) != len(grids_N3):
        raise GeometryError(f"sample {sample_id}: slice seconds of {len(slice_seconds)} grids for {len(grids_N3)}")
    found = [None if one is None else np.asarray(one, np.float64) for one in slice_seconds]
    for times, slices in zip(found, grids_N3[:, 0].tolist(), strict=True):
        if times is None:
            continue
        if times.shape != (slices,):
            raise GeometryError(f"sample {sample_id}: slice seconds of shape {times.shape} for {slices} slices")
        if not np.isfinite(times).all() or times[0] != 0 or (np.diff(times) < 0).any():
            raise GeometryError(f"sample {sample_id}: slice seconds {times.tolist()} must start at 0 and not fall")
    return found


def _check_count(tokens: int, grids_N3: NDArray[np.int64], spec: ModelSpec, kinds: str, sample_id: str) -> None:
    needed = int(grids_N3.prod(axis=1).sum()) // spec.vision.merge_unit
    if tokens != needed:
        raise GeometryError(
            f"sample {sample_id}: {tokens} {kinds} placeholder tokens, but its {len(grids_N3)} grids need {needed}"
        )
