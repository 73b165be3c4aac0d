"""Compute and keep the vision features that are missing: media one by one through the vision stages of a replica.

Threads read and resize ahead. What was kept stays kept: a pass that was interrupted goes on where it was.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import DataError, Problem, RunError
from qvl_core.parallel.vision_pass import VisionPass
from qvl_data.media.error import MediaError
from qvl_data.samples import MediumPatches

from qvl_train.agreement import together
from qvl_train.progress import format_duration

if TYPE_CHECKING:
    from qvl_core.feature_store import FeatureStore
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.world import Json, World
    from qvl_data.vision_media import VisionMedia

LINES_IN_A_LOG = 10
LONGEST_SILENCE_S = 30.0


class MediaReader:
    """Media in order, read ahead by threads. A bad one raises DataError, or with `skips_bad` has NaNs for patches.

    NaNs go the way that its patches would go, through all stages that wait for them; features of NaNs are not kept.
    """

    def __init__(self, media: VisionMedia, numbers: Sequence[int], *, workers: int, skips_bad: bool) -> None:
        self._media = media
        self._numbers = numbers
        self._workers = workers
        self._skips_bad = skips_bad
        self.bad: dict[int, str] = {}

    def __iter__(self) -> Iterator[MediumPatches]:
        if not self._workers:
            yield from map(self._read, self._numbers)
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="qvl-vision")
        try:
            waiting: deque[Future[MediumPatches]] = deque()
            for number in self._numbers:
                waiting.append(pool.submit(self._read, number))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, number: int) -> MediumPatches:
        media = self._media
        try:
            return media.load(number)
        except MediaError as error:
            if not self._skips_bad:
                raise DataError(
                    Problem(where=media.where(number), key=media.path(number), message=str(error))
                ) from None
            self.bad[number] = str(error)
            t, h, w = media.grids[number].tolist()
            patches = np.full((t * h * w, media.patch_dim), np.nan, np.float32)
            return MediumPatches(patches=patches, grid=(t, h, w))


class FillProgress:
    """Says how far this replica is: at every tenth, and every half minute."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total = total
        self._say = say
        self._started = self._said = time.monotonic()

    def tell(self, done: int) -> None:
        """Hear that so many media are done."""
        now = time.monotonic()
        is_tenth = done * LINES_IN_A_LOG // self._total != (done - 1) * LINES_IN_A_LOG // self._total
        if is_tenth or now - self._said >= LONGEST_SILENCE_S:
            left = format_duration((now - self._started) / done * (self._total - done))
            self._say(f"vision cache: {done:,} of {self._total:,} computed, {left} left")
            self._said = now


def fill(
    model: Qwen25VL,
    world: World,
    store: FeatureStore,
    media: VisionMedia,
    numbers: Sequence[int],
    *,
    workers: int,
    skips_bad: bool,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Compute the features of this replica's share of media; give the bad media of all, key and reason.

    All ranks of a replica have the same numbers. Returns on no rank before all are done.
    """
    work = VisionPass(model, world)
    reader = MediaReader(media, numbers, workers=workers, skips_bad=skips_bad)
    loaded = iter(reader) if work.reads_patches else None
    is_keeper = work.gives_features and world.place.tp == 0
    not_finite: list[int] = []
    progress = FillProgress(len(numbers), say)
    for done, number in enumerate(numbers if work.takes_part else (), 1):
        world.phase = f"vision cache: {done} of {len(numbers)}"
        medium = next(loaded) if loaded is not None else None
        grid = cast("tuple[int, int, int]", tuple(media.grids[number].tolist()))
        features = work.features(None if medium is None else medium.patches, grid)
        if features is not None and is_keeper:
            if _is_finite(features, store.dtype):
                store.write(media.keys[number], features, _times(media, number, medium))
            else:
                not_finite.append(number)
        progress.tell(done)
    work.finish()
    told: Json = {"bad": [[number, text] for number, text in reader.bad.items()], "not_finite": not_finite}
    return _bad_media(cast("list[Any]", together(world, lambda: told)), media)


def _bad_media(answers: Sequence[Any], media: VisionMedia) -> dict[str, str]:
    """Put together what the ranks have found. Raises RunError, the same on all, where good media gave NaNs."""
    bad = {int(number): str(text) for answer in answers for number, text in answer["bad"]}
    for answer in answers:
        for number in answer["not_finite"]:
            if number not in bad:
                raise RunError(
                    f"{media.where(number)}: the vision features of its image or video are not finite; nothing of them "
                    "was kept\n  fix: look at this file and at the weights of the vision tower"
                )
    return {media.keys[number]: text for number, text in bad.items()}


def _times(media: VisionMedia, number: int, medium: MediumPatches | None) -> NDArray[np.float64] | None:
    """Give when the slices of a video of variable frame rate start; where it was decoded on another stage, again."""
    if not media.times[number]:
        return None
    try:
        return (medium or media.load(number)).slice_seconds
    except MediaError as error:
        raise DataError(Problem(where=media.where(number), key=media.path(number), message=str(error))) from None


def _is_finite(features: NDArray[Any], dtype: str) -> bool:
    if dtype == "bfloat16":
        # All ones in the exponent: infinity or NaN.
        return not bool(((features & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(features).all())
