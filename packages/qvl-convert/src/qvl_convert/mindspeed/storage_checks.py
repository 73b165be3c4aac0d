"""Compare the tensors' bytes with the checksums that the archives record: torch and MSAdapter write one for each.

The copying cannot do it on the way: the bytes of a fused tensor go to several HF tensors. So it is a reading of its
own, when everything is copied and, as far as memory goes, still in the page cache.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.weights.raw_bytes import read_into
from qvl_core.weights.row_reader import BLOCK_BYTES
from qvl_core.weights.safetensors_writer import WrittenFile

from qvl_convert.mindspeed.folder import SHOWN, MindspeedFolder, RankFile
from qvl_convert.mindspeed.torch_archive import StoredEntry
from qvl_convert.transfer import Job

_FIX = "copy the file again from where it was written, or take another checkpoint"


def with_storage_checks(job: Job, folder: MindspeedFolder) -> Job:
    """Give the job with the check before its last step: a damaged source leaves no output."""

    def complete(out: Path, written: Mapping[str, WrittenFile]) -> None:
        check_storages(folder)
        job.complete(out, written)

    return replace(job, complete=complete)


def check_storages(folder: MindspeedFolder) -> None:
    """Raise WeightsError naming each tensor whose bytes do not have the recorded checksum."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(folder.ranks)), thread_name_prefix="check") as pool:
        found = list(pool.map(_damaged, folder.ranks.values()))
    problems = [problem for rank in found for problem in rank]
    if problems:
        raise WeightsError(problems[:SHOWN])


def _damaged(rank: RankFile) -> list[Problem]:
    problems = []
    with open_regular_file(rank.path) as file:
        for key, entry in rank.storages.items():
            # 0 is what torch writes where it is told to leave checksums out.
            if entry.crc32 and (crc := _crc32(file.fileno(), entry, rank.path)) != entry.crc32:
                names = [name for chunk in rank.chunks for name, one in chunk.items() if one.tensor.storage.key == key]
                message = f"is damaged: its bytes have the checksum {crc:08x}, the archive says {entry.crc32:08x}"
                where, name = printable(str(rank.path)), printable(", ".join(names), 160)
                problems.append(Problem(where=where, key=name, message=message, fix=_FIX))
    return problems


def _crc32(descriptor: int, entry: StoredEntry, path: Path) -> int:
    buffer, crc = memoryview(bytearray(min(BLOCK_BYTES, entry.size))), 0
    for start in range(entry.start, entry.stop, BLOCK_BYTES):
        piece = buffer[: min(BLOCK_BYTES, entry.stop - start)]
        read_into(descriptor, start, piece, path)
        crc = zlib.crc32(piece, crc)
    return crc
