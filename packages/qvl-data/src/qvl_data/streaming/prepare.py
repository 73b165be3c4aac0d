"""What a run on streamed data is told before its first step: files found and cut, nothing parsed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, Problem

from qvl_data.item_source import ItemSource
from qvl_data.planning import LengthRule
from qvl_data.processor import Processor
from qvl_data.streaming.blocks import ROWS, CutFile, Progress, cut
from qvl_data.streaming.json_lines import open_record_files
from qvl_data.streaming.pack_memory import PackMemory
from qvl_data.streaming.pack_windows import MOST_ROWS, WindowOpener
from qvl_data.streaming.packed_items import PackedStreamItems
from qvl_data.streaming.row_rules import RowRules
from qvl_data.streaming.rows import Rows
from qvl_data.streaming.stream_items import Stream, StreamItems

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe


def open_stream(recipe: Recipe, processor: Processor, *, progress: Progress | None = None) -> tuple[Stream, str, int]:
    """Find and cut the files of a recipe's sources: the stream, the hash of its data, the records in it.

    The hash is sha256 over the files' bytes; media are not in it. Raises DataError with everything that is wrong.
    """
    data = recipe.data
    refuse_unknown_length(recipe)
    problems: list[Problem] = []
    sources = []
    for source in data.sources:
        try:
            files = [
                cut(file, cache_dir=Path(data.cache_dir), progress=progress)
                for file in open_record_files(Path(source.path))
            ]
        except DataError as error:
            problems.extend(error.problems)
            continue
        sources.append((files, source.max_samples))
    if problems:
        raise DataError(problems)
    # A window of each source and the one after it; windows end where blocks do.
    rows = Rows(sources, kept=2 * (data.shuffle_buffer + ROWS * len(sources)))
    records = sum(map(sum, rows.block_rows))
    if not records:
        raise DataError(Problem(where=recipe.path, key="data.sources", message="hold no record"))
    data_hash = _hash_of(sources)
    roots = [Path(source.media_root) if source.media_root else Path(source.path).parent for source in data.sources]
    rules = RowRules(
        formats=[source.format for source in data.sources],
        media_roots=roots,
        processor=processor,
        rule=LengthRule(limit=data.sequence_length, policy=data.too_long),
        loss_on=data.loss_on,
    )
    stream = Stream(
        rows=rows,
        rules=rules,
        weights=tuple(source.weight for source in data.sources),
        shuffle_buffer=data.shuffle_buffer,
        fingerprint=_fingerprint(recipe, processor, data_hash),
    )
    return stream, data_hash, records


def stream_items(stream: Stream, recipe: Recipe) -> ItemSource:
    """Give what training takes of a stream, in its order."""
    data, train = recipe.data, recipe.train
    assert train is not None, "only training streams"
    if not data.packing:
        return StreamItems(
            stream,
            train.seed,
            with_lengths=data.balance == "length",
            workers=data.workers,
            timeout_s=data.sample_timeout_s,
        )
    opener = WindowOpener(
        stream.rows,
        stream.rules,
        stream.order(train.seed),
        size=min(MOST_ROWS, data.shuffle_buffer),
        seed=train.seed,
        capacity=data.sequence_length,
        skips=data.on_bad_sample == "skip",
        workers=data.workers,
    )
    memory = PackMemory(Path(data.cache_dir) / f"packs-{stream.fingerprint}-{train.seed}.txt")
    return PackedStreamItems(stream, opener, memory, seed=train.seed, timeout_s=data.sample_timeout_s)


def refuse_unknown_length(recipe: Recipe) -> None:
    """Raise DataError for `train.epochs` with packs: they are counted only when all rows were tokenised."""
    if recipe.train is not None and recipe.train.epochs is not None and recipe.data.packing:
        message = "counts epochs, but how many packs streamed data make is known only when all of it was tokenised"
        fix = "state train.steps instead, or set data.streaming = false"
        raise DataError(Problem(where=recipe.path, key="train.epochs", message=message, fix=fix))


def _hash_of(sources: list[tuple[list[CutFile], int | None]]) -> str:
    total = hashlib.sha256()
    for files, _ in sources:
        total.update(b"source\n")
        for file in files:
            total.update(f"{file.digest}\n".encode())
    return total.hexdigest()


def _fingerprint(recipe: Recipe, processor: Processor, data_hash: str) -> str:
    """Name what packs of a stream depend on, apart from the seed."""
    data = recipe.data.model_dump(mode="json", exclude={"workers", "cache_dir", "validation", "sample_timeout_s"})
    tokenizer = hashlib.sha256((processor.folder / "tokenizer.json").read_bytes()).hexdigest()
    content = [data_hash, tokenizer, data]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()[:24]
