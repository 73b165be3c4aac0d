"""The samples that a run could not use, one JSON line each in `bad_samples.jsonl` of its folder, and their totals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from qvl_data.batching.bad_samples import BadSamples, Unusable

from qvl_train.append_file import AppendFile

if TYPE_CHECKING:
    from qvl_core.parallel.world import World
    from qvl_core.recipe.schema import Recipe

BAD_SAMPLES_FILE = "bad_samples.jsonl"


def bad_samples_of(recipe: Recipe, world: World, folder: Path) -> BadSamples:
    """Give a replica's list of bad samples. Its first rank writes and logs them, the others count the same ones."""
    place = world.place
    speaks = place.tp == 0 and place.pp == 0

    def tell(found: Unusable) -> None:
        row = {"where": found.where, "reason": found.reason, "replica": place.dp}
        # Opened for each: there are few, in most runs none, and then no file.
        file = AppendFile(folder / BAD_SAMPLES_FILE)
        try:
            file.append((json.dumps(row) + "\n").encode())
        finally:
            file.close()

    return BadSamples(
        policy=recipe.data.on_bad_sample,
        limit=recipe.data.max_bad_samples,
        tell=tell if speaks else None,
        speaks=speaks,
    )


def totals_of(found: BadSamples | None, world: World) -> list[str]:
    """Give the lines about bad and too long samples of all replicas. All ranks call it."""
    if found is None:
        return []
    place = world.place
    speaks = place.tp == 0 and place.pp == 0
    told = world.exchange([found.bad, found.too_long] if speaks else [0, 0])
    bad, too_long = (sum(cast("list[int]", one)[i] for one in told) for i in range(2))
    lines = [f"bad samples left out: {bad:,}, listed in {BAD_SAMPLES_FILE}"] if bad else []
    return lines + ([f"too long samples replaced: {too_long:,}"] if too_long else [])
