"""`data.vision_cache`: before the first step, the features of every medium are made sure of; training then reads them.

What is kept depends on the vision tower's weights as this run holds them, and on all that decides the last bit of what
they give: dtype, tensor slices, device, release of MindSpore. Each machine keeps what its own ranks read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from qvl_core.cli.terminal import bytes_text
from qvl_core.device import current_device
from qvl_core.errors import OutputError, Problem
from qvl_core.feature_store import FeatureStore, folder_name
from qvl_core.parallel.mesh import Coordinate, rank_of

from qvl_train.agreement import together
from qvl_train.kept_features import KeptFeatures
from qvl_train.vision_fill import fill

if TYPE_CHECKING:
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.world import Json, World
    from qvl_core.recipe.schema import Recipe
    from qvl_data import PreparedData
    from qvl_data.vision_media import VisionMedia

FOLDER_NAME = "vision"
# Files between two words to the watchdog.
_TELL_EVERY = 500
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Keepers:
    """The rank of each replica that its features come out of, by replica, and the machine of each of them."""

    ranks: tuple[int, ...]
    machines: tuple[str, ...]

    def mates(self, replica: int) -> list[int]:
        """List the replicas that keep their features on the same machine, this one included: they share the work."""
        return [other for other, machine in enumerate(self.machines) if machine == self.machines[replica]]


def use_features(
    recipe: Recipe, data: PreparedData, model: Qwen25VL, world: World, say: Callable[[str], None]
) -> PreparedData:
    """Compute what is missing and give the data whose samples carry features. All ranks call it and fail together.

    Says what it will take before anything is computed. Raises OutputError where a disk has no room for it or cannot be
    written, DataError for a medium that cannot be read (with `on_bad_sample = "stop"`).
    """
    from qvl_data.vision_media import list_media, with_features

    world.phase = "vision cache: naming the weights"
    about = describe(recipe, world, weights_digest(model, world))
    store = FeatureStore(
        folder=Path(recipe.data.cache_dir) / FOLDER_NAME / folder_name(about),
        width=recipe.spec.vision.out_hidden_size,
        dtype=str(recipe.model.dtype),
    )
    media = list_media(data)
    keepers = _find_keepers(world, Path(recipe.data.cache_dir))
    missing = _survey(world, store, media, keepers, say)
    _make_ready(world, store, media, keepers, missing, about, say)
    own = missing[keepers.machines[world.place.dp]]
    mates = keepers.mates(world.place.dp)
    bad = fill(
        model,
        world,
        store,
        media,
        own[mates.index(world.place.dp) :: len(mates)],
        workers=recipe.data.workers,
        skips_bad=recipe.data.on_bad_sample == "skip",
        say=say,
    )
    times = _collect_times(world, store, media, keepers, bad)
    return with_features(data, KeptFeatures(store, bad=bad, times=times, is_reader=model.part.embeds))


def weights_digest(model: Qwen25VL, world: World) -> str:
    """Give a SHA-256 over the vision tower and merger as the ranks hold them: names, shapes and every byte."""
    components = {row.name: row.component for row in model.table}
    place = world.place
    found: list[list[str | int]] = []
    if place.dp == 0:
        for name, parameter in model.named_parameters().items():
            if components[name] in ("vision", "merger"):
                array = np.ascontiguousarray(parameter.asnumpy())
                digest = hashlib.sha256(f"{array.shape}\n".encode())
                digest.update(array.view(np.uint8).data)
                found.append([name, place.tp, digest.hexdigest()])
    answers = cast("list[list[list[str | int]]]", together(world, lambda: cast("Json", found)))
    listed = sorted(entry for answer in answers for entry in answer)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def describe(recipe: Recipe, world: World, weights: str) -> dict[str, Any]:
    """Say everything that the features of a medium depend on besides the medium."""
    return {
        "weights": f"sha256:{weights}",
        "vision": json.loads(json.dumps(asdict(recipe.spec.vision))),
        "dtype": str(recipe.model.dtype),
        "tp": world.layout.tp,
        "device": current_device(),
        "mindspore": metadata.version("mindspore"),
    }


def _find_keepers(world: World, cache_dir: Path) -> Keepers:
    """Find them. Raises OutputError where ranks that read the same features do not see the same folder."""
    stage = next(stage for stage, count in enumerate(world.layout.text_stages) if count)
    places = cast("list[str]", world.exchange(cache_place(cache_dir)))
    ranks = []
    for dp in range(world.layout.dp):
        readers = [rank_of(Coordinate(pp=stage, dp=dp, tp=tp), world.layout) for tp in range(world.layout.tp)]
        if len({places[rank] for rank in readers}) > 1:
            message = f"tensor ranks {readers} read the same features and see different folders"
            fix = "keep the tensor ranks of a stage on one machine, or set data.vision_cache = false"
            raise OutputError(Problem(where=str(cache_dir), key="data.cache_dir", message=message, fix=fix))
        ranks.append(readers[0])
    return Keepers(ranks=tuple(ranks), machines=tuple(places[rank] for rank in ranks))


def cache_place(cache_dir: Path) -> str:
    """Name the disk folder that a cache_dir is, the same for all processes that see it: host name and a mark in it.

    Containers may share a host name, machines a disk. A folder that cannot be written has no mark; that is told later.
    """
    mark = cache_dir / "place"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        own = mark.with_name(f".place-{uuid.uuid4().hex}")
        own.write_text(uuid.uuid4().hex, encoding="ascii")
        # A link appears with its content, and only the first one can: whose mark it is does not matter.
        with suppress(FileExistsError):
            os.link(own, mark)
        own.unlink()
        return f"{socket.gethostname()}:{mark.read_text(encoding='ascii')}"
    except OSError:
        return socket.gethostname()


def _survey(
    world: World,
    store: FeatureStore,
    media: VisionMedia,
    keepers: Keepers,
    say: Callable[[str], None],
) -> dict[str, list[int]]:
    """List the numbers of the media that each machine misses, the same on every rank. Files that are there are read."""
    mates = keepers.mates(world.place.dp)
    own = range(mates.index(world.place.dp), len(media), len(mates))

    def look() -> Json:
        if world.rank not in keepers.ranks:
            return None
        misses = np.zeros(len(own), np.bool_)
        damaged: list[str] = []
        for place, number in enumerate(own):
            if place % _TELL_EVERY == 0:
                world.phase = f"vision cache: looking at what is there, {place} of {len(own)}"
            key = media.keys[number]
            found = store.look(key, int(media.rows[number]), int(media.times[number]))
            misses[place] = isinstance(found, str)
            if isinstance(found, str) and store.path(key).exists():
                damaged.append(f"{store.path(key)}: {found}")
        return {"misses": np.packbits(misses).tobytes().hex(), "count": len(damaged), "damaged": damaged[:_SHOWN]}

    answers = cast("list[Any]", together(world, look))
    missing: dict[str, list[int]] = {machine: [] for machine in keepers.machines}
    for replica, rank in enumerate(keepers.ranks):
        machine, group = keepers.machines[replica], keepers.mates(replica)
        numbers = np.arange(group.index(replica), len(media), len(group))
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(answers[rank]["misses"]), np.uint8), count=len(numbers))
        missing[machine] += numbers[bits.astype(np.bool_)].tolist()
        _tell_damage(answers[rank], say)
    return {machine: sorted(numbers) for machine, numbers in missing.items()}


def _tell_damage(answer: Mapping[str, Any], say: Callable[[str], None]) -> None:
    if answer["count"]:
        say(f"vision cache: {answer['count']:,} files are damaged and are computed anew:")
        for line in answer["damaged"]:
            say(f"  {line}")


def _make_ready(
    world: World,
    store: FeatureStore,
    media: VisionMedia,
    keepers: Keepers,
    missing: Mapping[str, Sequence[int]],
    about: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Say what will be computed and what it takes; refuse where there is no room, and make the folders."""
    leaders = {machine: keepers.ranks[keepers.machines.index(machine)] for machine in missing}
    needed = {
        machine: sum(store.disk_bytes(int(media.rows[number]), int(media.times[number])) for number in numbers)
        for machine, numbers in missing.items()
    }
    free = cast("list[int]", together(world, lambda: _free_bytes(store.folder)))
    for machine, numbers in missing.items():
        where = f" on {machine.partition(':')[0]}" if len(missing) > 1 else ""
        say(
            f"vision cache{where}: {len(media):,} images and videos, {len(media) - len(numbers):,} of them known; "
            f"{len(numbers):,} to compute, {bytes_text(needed[machine])} in {store.folder}, "
            f"{bytes_text(free[leaders[machine]])} free"
        )

    def check() -> None:
        for machine, rank in leaders.items():
            if rank == world.rank and missing[machine]:
                _require_room(store.folder, needed[machine], free[rank])
                _open(store, about)

    together(world, check)


def _collect_times(
    world: World, store: FeatureStore, media: VisionMedia, keepers: Keepers, bad: Mapping[str, str]
) -> dict[str, NDArray[np.float64]]:
    """Give the times of the slices of all videos of variable frame rate, by key: one rank reads, all know them."""
    wanted = [number for number in np.flatnonzero(media.times).tolist() if media.keys[number] not in bad]

    def read() -> Json:
        if world.rank != keepers.ranks[0]:
            return None
        sizes = ((media.keys[number], int(media.rows[number]), int(media.times[number])) for number in wanted)
        return [store.read(*size).times.tolist() for size in sizes]

    found = cast("list[list[float]]", together(world, read)[keepers.ranks[0]])
    return {media.keys[number]: np.array(times) for number, times in zip(wanted, found, strict=True)}


def _free_bytes(folder: Path) -> int:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free


def _require_room(folder: Path, needed: int, free: int) -> None:
    if needed > free:
        message = f"the vision features need {bytes_text(needed)} ({needed:,} bytes), {bytes_text(free)} are free"
        fix = "make room, choose another disk: --set data.cache_dir=/other/disk/cache\nor --set data.vision_cache=false"
        raise OutputError(Problem(where=str(folder), key="data.cache_dir", message=message, fix=fix))


def _open(store: FeatureStore, about: Mapping[str, Any]) -> None:
    try:
        store.open(about)
    except OutputError as error:
        fix = "choose a folder that can be written: --set data.cache_dir=/other/cache\nor --set data.vision_cache=false"
        message = error.problems[0].message
        raise OutputError(Problem(where=str(store.folder), key="data.cache_dir", message=message, fix=fix)) from error
