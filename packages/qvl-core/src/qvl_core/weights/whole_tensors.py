"""One view of any weights folder: every tensor whole, as a tiling of boxes of bytes, whatever the folder's layout.

A tensor is a matrix: dim 0 are its rows, the rest its columns. Nothing is read here but headers and manifests: the
converter reads the bytes by rows (`row_reader`), the loading of a model by pieces of the tiling (`local_tensors`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, weight_table
from qvl_core.params import Parameter, parameter_table
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.cuts import cut_of, matrix_shape
from qvl_core.weights.hf_folder import HFFolder, require_tensors
from qvl_core.weights.manifest import MANIFEST_NAME, TensorRecord, rank_file_name
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry, file_stamp
from qvl_core.weights.sharded_folder import ShardedFolder
from qvl_core.weights.source import STATE_NAME, open_source

Kind = Literal["hf", "sharded", "checkpoint", "mindspeed"]
Stamp = tuple[int, int, int]
COPY_ANEW = "copy the folder again from where it was written, or take another checkpoint"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box of a whole tensor that lies in a file without gaps, from byte `start` on. Columns count elements.

    `part` is the index of the `Part` that it belongs to, None where no checksum is recorded.
    """

    file: Path
    start: int
    first_row: int
    stop_row: int
    first_column: int
    stop_column: int
    part: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Bytes `start` to `stop` of a file, known there as `key`, and what was recorded of them, `sha256:...`."""

    file: Path
    key: str
    start: int
    stop: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class WholeTensor:
    """A tensor and the boxes that tile it, in order of their rows; read in that order, each part's bytes are in order.

    `parts` have recorded checksums. `copies` hold once more what a part holds: the other ranks of a replicated tensor,
    the second stage of a tied embedding.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]
    parts: tuple[Part, ...] = ()
    copies: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        """Rows, counted along dim 0."""
        return matrix_shape(self.shape)[0]

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of a whole row."""
        return matrix_shape(self.shape)[1] * self.item_bytes

    @property
    def size(self) -> int:
        """Bytes of the whole tensor."""
        return self.rows * self.row_bytes


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file that the tensors lie in, as it was when the folder was opened."""

    path: Path
    stamp: Stamp


@dataclass(frozen=True, kw_only=True)
class WholeTensors:
    """All tensors of a folder by classic name, in table order; `optimizer` by `<parameter>.<kind>`.

    `layout` is None for an HF folder. `source_revision` is what a manifest says of where the weights came from.
    `has_optimizer` is true of a checkpoint with optimizer files, which hold nothing if every parameter is frozen.
    With `lora` the tensors are the factors of adapters.
    """

    path: Path
    kind: Kind
    spec: ModelSpec
    layout: Layout | None
    source_revision: str
    tensors: Mapping[str, WholeTensor]
    optimizer: Mapping[str, WholeTensor] = field(default_factory=dict)
    has_optimizer: bool = False
    inputs: tuple[Input, ...] = ()
    lora: Lora | None = None

    @property
    def size(self) -> int:
        """Bytes of all tensors, without optimizer state."""
        return sum(tensor.size for tensor in self.tensors.values())


def open_whole_tensors(path: str | Path) -> WholeTensors:
    """Open an HF, sharded or checkpoint folder. Headers are checked, and that copies of one tensor are recorded equal.

    Raises WeightsError.
    """
    folder = open_source(path)
    return whole_tensors_of(folder)


def whole_tensors_of(folder: HFFolder | ShardedFolder) -> WholeTensors:
    """Give the view of an opened folder. Raises WeightsError if it does not hold exactly its model's tensors."""
    return _of_hf(folder) if isinstance(folder, HFFolder) else _of_sharded(folder)


def _of_hf(folder: HFFolder) -> WholeTensors:
    require_tensors(folder, folder.spec)
    tensors = {}
    for parameter in parameter_table(folder.spec):
        entry = folder.tensors[parameter.name]
        tensors[parameter.name] = WholeTensor(
            name=parameter.name,
            shape=parameter.shape,
            dtype=entry.dtype,
            pieces=(whole_piece(entry.file, entry.start, parameter.shape),),
        )
    inputs = (*(Input(path=header.file, stamp=header.stamp) for header in folder.headers),)
    return WholeTensors(
        path=folder.path,
        kind="hf",
        spec=folder.spec,
        layout=None,
        source_revision="",
        tensors=tensors,
        inputs=(*inputs, input_of(folder.path / CONFIG_NAME)),
    )


def whole_piece(file: Path, start: int, shape: tuple[int, ...]) -> Piece:
    """Give the piece of a tensor that lies in one file as it is."""
    rows, columns = matrix_shape(shape)
    return Piece(file=file, start=start, first_row=0, stop_row=rows, first_column=0, stop_column=columns)


def input_of(path: Path) -> Input:
    """Give a file as it is now. Raises WeightsError if it cannot be looked at."""
    try:
        return Input(path=path, stamp=file_stamp(path.stat()))
    except OSError as error:
        raise WeightsError(Problem(where=printable(str(path)), message=f"cannot be read: {error.strerror}")) from None


def _of_sharded(folder: ShardedFolder) -> WholeTensors:
    manifest = folder.manifest
    rows = weight_table(manifest.spec, manifest.lora, manifest.layout)
    table = {parameter.name: parameter for parameter in rows}
    tensors = {
        name: _sharded_tensor(folder, parameter, name, manifest.tensors[name], folder.ranks, rank_file_name)
        for name, parameter in table.items()
    }
    optimizer = {
        name: _sharded_tensor(folder, table[split_name(name)[0]], name, record, folder.optimizer, optimizer_file_name)
        for name, record in manifest.optimizer.items()
    }
    state = folder.path / STATE_NAME
    names = [*manifest.files, MANIFEST_NAME]
    return WholeTensors(
        path=folder.path,
        kind="checkpoint" if state.exists() else "sharded",
        spec=manifest.spec,
        layout=manifest.layout,
        source_revision=manifest.source_revision,
        tensors=tensors,
        optimizer=optimizer,
        has_optimizer=manifest.has_optimizer,
        inputs=tuple(input_of(folder.path / name) for name in names),
        lora=manifest.lora,
    )


def _sharded_tensor(
    folder: ShardedFolder,
    parameter: Parameter,
    name: str,
    record: TensorRecord,
    ranks: Mapping[tuple[int, int], Mapping[str, TensorEntry]],
    file_name: Callable[[int, int], str],
) -> WholeTensor:
    tp = folder.manifest.layout.tp
    homes = [(pp, rank) for pp in parameter.stages for rank in range(tp)]
    found = [_part(ranks[home][name], record.parts[file_name(*home)]) for home in homes]
    count = 1 if parameter.shard == "replicate" else tp
    parts, copies = tuple(found[:count]), tuple(found[count:])
    for i, copy in enumerate(copies):
        _require_equal_copy(parts[i % count], copy)
    return WholeTensor(
        name=name,
        shape=parameter.shape,
        dtype=record.dtype,
        pieces=_pieces(parameter, parts, DTYPE_BYTES[record.dtype]),
        parts=parts,
        copies=copies,
    )


def _part(entry: TensorEntry, checksum: str) -> Part:
    return Part(file=entry.file, key=entry.name, start=entry.start, stop=entry.stop, checksum=checksum)


def _pieces(parameter: Parameter, parts: tuple[Part, ...], item: int) -> tuple[Piece, ...]:
    pieces = []
    for rank, part in enumerate(parts):
        cut = cut_of(parameter.shape, parameter.shard, tp=len(parts), rank=rank)
        for run in cut.runs:
            pieces.append(
                Piece(
                    file=part.file,
                    start=part.start + run.local * cut.columns * item,
                    first_row=run.first,
                    stop_row=run.stop,
                    first_column=cut.first_column,
                    stop_column=cut.stop_column,
                    part=rank,
                )
            )
    return tuple(sorted(pieces, key=lambda piece: (piece.first_row, piece.first_column)))


def _require_equal_copy(part: Part, copy: Part) -> None:
    if part.checksum != copy.checksum:
        message = f"differs from the copy in {part.file.name}, by their recorded checksums"
        raise WeightsError(Problem(where=printable(str(copy.file)), key=copy.key, message=message, fix=COPY_ANEW))
