"""File systems of a run's folders: whether all machines see them, and what they do not promise."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor.row import Row
from qvl_core.input_file import printable

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

MOUNTS = Path("/proc/self/mountinfo")
# What lies on a disk, or in the memory, of one machine.
_LOCAL = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "vfat", "xfs", "zfs")
# Object stores mounted as folders: a rename there is a copy and a delete, which a stop can cut in two.
_STORES = re.compile(r"fuse\.(?:s3fs|obsfs|ossfs|goofys|rclone|gcsfuse|mount-s3|cosfs)")
_OWN_LOCKS = ("nolock", "local_lock=all", "local_lock=flock")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Where a file system is mounted, its kind, and its options."""

    place: str
    kind: str
    options: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Tell whether no other machine sees it."""
        return self.kind in _LOCAL


def mount_of(path: Path, mounts: Path = MOUNTS) -> Mount | None:
    """Give the mount that a path lies on, or would; None where the kernel does not say."""
    real = os.path.realpath(path)
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best: Mount | None = None
    for mount in filter(None, map(_mount, lines)):
        inside = real == mount.place or real.startswith(f"{mount.place.rstrip('/')}/")
        # Of two on one place, the later one covers the other.
        if inside and (best is None or len(mount.place) >= len(best.place)):
            best = mount
    return best


def promises_broken(path: Path, mounts: Path = MOUNTS) -> str:
    """Say what a folder's file system does not do that checkpoints and locks rest on; "" where nothing is known."""
    mount = mount_of(path, mounts)
    if mount is None:
        return ""
    if _STORES.fullmatch(mount.kind):
        return f"is an object store ({mount.kind}): a folder is not renamed in one piece there"
    if mount.kind.startswith("nfs") and any(option in _OWN_LOCKS for option in mount.options):
        return f"is mounted without locks between machines ({mount.kind}, {_lock_option(mount)})"
    return ""


def check_shared_folders(recipe: Recipe, mounts: Path = MOUNTS) -> Row:
    """Check that what all machines of a run read and write is not on a disk of this one alone."""
    name = "shared-folders"
    if recipe.launch.nodes == 1:
        return Row(check=name, level="ok", evidence="one machine: nothing has to be shared")
    found = [(key, path, mount_of(path, mounts)) for key, path in _folders(recipe)]
    if all(mount is None for _, _, mount in found):
        return Row(check=name, level="skipped", evidence=f"{mounts} does not say what is mounted")
    alone = [
        f"{key} {printable(str(path), 80)} ({mount.kind})" for key, path, mount in found if mount and mount.is_local
    ]
    if alone:
        evidence = f"{recipe.launch.nodes} machines, and on a disk of this one alone: {', '.join(alone)}"
        fix = "put them on a disk that all machines mount; data and weights may lie on each at the same place instead"
        if alone[0].startswith("output.dir"):
            fix = f"--set output.dir=DIR on a disk that all {recipe.launch.nodes} machines mount"
        return Row(check=name, level="warn", evidence=evidence, fix=fix)
    kinds = ", ".join(sorted({mount.kind for _, _, mount in found if mount}))
    return Row(check=name, level="ok", evidence=f"output, weights and data are on {kinds}, which machines can share")


def _folders(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    yield "output.dir", Path(recipe.output.dir)
    yield "weights.source", Path(recipe.weights.source)
    if recipe.task == "sft":
        yield from ((f"data.sources[{i}]", Path(source.path)) for i, source in enumerate(recipe.data.sources))
    if recipe.eval and recipe.eval.data:
        yield "eval.data", Path(recipe.eval.data)


def _mount(line: str) -> Mount | None:
    """Read a line of mountinfo (proc(5)): place and options before the dash, kind and more options behind it."""
    before, dash, behind = line.partition(" - ")
    words, rest = before.split(" "), behind.split(" ")
    if not dash or len(words) < 6 or not rest[0]:
        return None
    place = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), words[4])
    options = (*words[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ()))
    return Mount(place=place, kind=rest[0], options=options)


def _lock_option(mount: Mount) -> str:
    return next(option for option in mount.options if option in _OWN_LOCKS)
