"""A short name for the content of a weights folder, for `run.json` and for telling one run's weights from another's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qvl_core.input_file import open_regular_file
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.hf_folder import HFFolder
from qvl_core.weights.raw_bytes import read_exactly
from qvl_core.weights.sharded_folder import ShardedFolder

SAMPLE_BYTES = 64 * 1024


def fingerprint(folder: HFFolder | ShardedFolder) -> str:
    """Give a SHA-256 over the configuration and, of every tensor, name, dtype, shape and its first and last 64 KiB.

    A sample, because hashing 150 GB takes minutes: it tells trained from untrained weights and one release from
    another, and does not replace the checksums that find a flipped bit. File names and the dealing of
    tensors to HF files do not enter it; the layout of a sharded folder does.
    """
    digest = hashlib.sha256()
    if isinstance(folder, HFFolder):
        digest.update(config_digest(folder.path).encode())
        groups = [("", folder.tensors)]
    else:
        groups = [(f"{pp}/{tp}/", entries) for (pp, tp), entries in sorted(folder.ranks.items())]
    for prefix, entries in groups:
        for name, entry in sorted(entries.items()):
            digest.update(f"{prefix}{name} {entry.dtype} {list(entry.shape)}\n".encode())
            with open_regular_file(entry.file) as file:
                count = min(SAMPLE_BYTES, entry.size)
                for start in sorted({entry.start, entry.stop - count}):
                    digest.update(read_exactly(file.fileno(), start, count, entry.file))
    return f"sampled-sha256:{digest.hexdigest()}"


def config_digest(folder: Path) -> str:
    """Give the SHA-256 of the folder's `config.json`."""
    return f"sha256:{hashlib.sha256((folder / CONFIG_NAME).read_bytes()).hexdigest()}"
