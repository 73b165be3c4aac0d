"""Open a folder of the reference stack as whole HF tensors: which rows of which file each consists of.

Every key of every file has to be one that the model's map asks for, with the shape that it says, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_tensor_degree
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.hf_folder import WEIGHT_DTYPES
from qvl_core.weights.raw_bytes import first_difference
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry
from qvl_core.weights.whole_tensors import Piece, WholeTensor, WholeTensors, input_of

from qvl_convert.mindspeed.folder import LATEST, SHOWN, FoundTensor, MindspeedFolder, open_mindspeed_folder
from qvl_convert.mindspeed.key_map import TEXT_LAYER, VISION_LAYER, FusedTensor, fused_tensors
from qvl_convert.mindspeed.pickle_records import TorchTensor

_WRONG_MODEL = "is every mp_rank folder there? else give the HF files of the model that the checkpoint was made from"
_DAMAGED = "copy the folder again from where it was written, or take another checkpoint"


def open_mindspeed(path: str | Path, spec: ModelSpec) -> WholeTensors:
    """Open a folder that mm-convert or a training run of the reference stack wrote, or one iteration within it.

    The layout is found out from the files; it is None where they have virtual stages. Optimizer state is left out.
    Copies of one tensor (norms on every tensor rank, a tied embedding) are compared here. Raises WeightsError.
    """
    return whole_tensors_of_mindspeed(Path(path), open_mindspeed_folder(path), spec)


def whole_tensors_of_mindspeed(path: Path, folder: MindspeedFolder, spec: ModelSpec) -> WholeTensors:
    """Give the view of an opened folder; `path` is what the user named. Raises WeightsError."""
    layout = _flat_layout(folder, spec)
    tensors = _Assembly(folder, spec, layout).tensors()
    latest = path / LATEST
    return WholeTensors(
        path=path,
        kind="mindspeed",
        spec=spec,
        layout=layout if folder.virtual == 1 else None,
        source_revision="",
        tensors=tensors,
        inputs=(*folder.inputs, *([input_of(latest)] if latest.exists() else [])),
    )


def _flat_layout(folder: MindspeedFolder, spec: ModelSpec) -> Layout:
    """Give the layout by the layers that the files hold, with every virtual stage as a stage of its own."""
    where = printable(str(folder.path))
    counts = []
    for prefix, kind, depth in (
        (VISION_LAYER, "vision", spec.vision.depth),
        (TEXT_LAYER, "text", spec.text.num_layers),
    ):
        stages = [_layers(chunk, prefix) for chunk in _chunks(folder, 0)]
        if sum(stages) != depth:
            message = f"holds {sum(stages)} {kind} layers, on its stages {stages}; {spec.name} has {depth}"
            raise WeightsError(Problem(where=where, message=message, fix=_WRONG_MODEL))
        counts.append(tuple(stages))
    problems = list(check_tensor_degree(spec, folder.tp))
    if problems:
        message = f"has {folder.tp} tensor ranks: {problems[0].message}"
        raise WeightsError(Problem(where=where, message=message, fix=_WRONG_MODEL))
    return Layout(tp=folder.tp, pp=len(counts[0]), vision_stages=counts[0], text_stages=counts[1])


def _chunks(folder: MindspeedFolder, rank: int) -> list[Mapping[str, FoundTensor]]:
    """Give what a tensor rank holds on every stage in the order of the layers: chunk by chunk, stage by stage."""
    return [folder.ranks[stage, rank].chunks[v] for v in range(folder.virtual) for stage in range(folder.pp)]


def _layers(chunk: Mapping[str, FoundTensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
    return len({int(match[1]) for key in chunk if (match := pattern.match(key))})


class _Assembly:
    """Puts the pieces of every HF tensor together, and collects what is wrong on the way."""

    def __init__(self, folder: MindspeedFolder, spec: ModelSpec, layout: Layout) -> None:
        self._folder = folder
        self._spec = spec
        self._layout = layout
        self._chunks = [_chunks(folder, rank) for rank in range(layout.tp)]
        self._problems: list[Problem] = []
        self._pieces: dict[str, list[Piece]] = {}
        self._dtypes: dict[str, str] = {}
        # Pairs of tensors that have to be equal.
        self._copies: list[tuple[FoundTensor, FoundTensor]] = []

    def tensors(self) -> dict[str, WholeTensor]:
        fused = fused_tensors(self._spec, self._layout, tied_copy=True)
        holders = {(one.stage, one.key): self._holders(one) for one in fused}
        self._refuse_unexpected(fused)
        self._stop_if_wrong()
        embedding: list[FoundTensor] = []
        for one in fused:
            found = holders[one.stage, one.key]
            if one.is_tied_copy:
                self._copies += zip(embedding, found, strict=bool(found))
                continue
            if one.names == (EMBEDDING,):
                embedding = found
            self._add(one, found)
        self._stop_if_wrong()
        self._compare_copies()
        self._stop_if_wrong()
        return {
            row.name: WholeTensor(
                name=row.name,
                shape=row.shape,
                dtype=self._dtypes[row.name],
                pieces=tuple(sorted(self._pieces[row.name], key=lambda piece: (piece.first_row, piece.first_column))),
            )
            for row in parameter_table(self._spec)
        }

    def _holders(self, fused: FusedTensor) -> list[FoundTensor]:
        """Give the tensor of every rank; none of an absent tied copy. Notes what is missing or of another shape."""
        found: list[FoundTensor] = []
        for rank in range(self._layout.tp):
            tensor = self._chunks[rank][fused.stage].get(fused.key)
            wanted = fused.shape(rank)
            if tensor is None:
                # Where first and last stage are one, Megatron keeps no second copy of a tied embedding.
                if not fused.is_tied_copy or found:
                    where = self._rank_path(fused.stage, rank)
                    self._problem(where, fused.key, f"is missing; its shape is {list(wanted)}", _DAMAGED)
            elif tensor.tensor.shape != wanted:
                shape = list(tensor.tensor.shape)
                message = f"has shape {shape}, rank {rank} of {self._layout.tp} holds {list(wanted)}"
                self._problem(tensor.file, fused.key, message, _WRONG_MODEL)
            elif tensor.tensor.storage.dtype not in WEIGHT_DTYPES:
                message = f"is {tensor.tensor.storage.dtype}; weights are {', '.join(WEIGHT_DTYPES)}"
                self._problem(tensor.file, fused.key, message, _WRONG_MODEL)
            else:
                found.append(tensor)
        return found

    def _refuse_unexpected(self, fused: Iterable[FusedTensor]) -> None:
        wanted: dict[int, set[str]] = {}
        for one in fused:
            wanted.setdefault(one.stage, set()).add(one.key)
        for chunks in self._chunks:
            for stage, chunk in enumerate(chunks):
                for key in sorted(set(chunk) - wanted.get(stage, set())):
                    self._problem(chunk[key].file, key, "is not a tensor of this stage of the model", _WRONG_MODEL)

    def _add(self, fused: FusedTensor, found: list[FoundTensor]) -> None:
        if len({one.tensor.storage.dtype for one in found}) > 1:
            kinds = ", ".join(f"{one.tensor.storage.dtype} in {one.file.parent.name}" for one in found)
            self._problem(found[0].file, fused.key, f"has several dtypes: {kinds}", _DAMAGED)
            return
        for name in fused.names:
            self._dtypes[name] = found[0].tensor.storage.dtype
        if not all(one.tensor.is_dense for one in found):
            self._add_views(fused, found)
            return
        if fused.replicated:
            self._copies += [(found[0], other) for other in found[1:]]
            found = found[:1]
        for rank, one in enumerate(found):
            for piece in _dense_pieces(fused, rank, one):
                self._pieces.setdefault(piece[0], []).append(piece[1])

    def _add_views(self, fused: FusedTensor, found: list[FoundTensor]) -> None:
        """Take the whole from the first file where every rank's file holds it and the ranks are columns of it.

        So mm-convert writes what it cuts by columns: a slice, with which torch saves all that it is a slice of.
        """
        boxes = [fused.boxes(rank)[0] for rank in range(self._layout.tp)]
        columns = boxes[-1].stop_column
        whole = boxes[0].rows * columns
        for box, one in zip(boxes, found, strict=True):
            view = one.tensor
            expected = (whole, (columns, 1), box.first_column)
            if fused.replicated or (view.storage.count, view.strides, view.offset) != expected:
                message = f"is a view with strides {list(view.strides)} of {view.storage.count:,} elements"
                fix = "save it again where it was written, with every tensor .contiguous()"
                self._problem(one.file, fused.key, message, fix)
                return
        self._copies += [(_storage_of(found[0]), _storage_of(other)) for other in found[1:]]
        piece = Piece(
            file=found[0].file,
            start=found[0].start,
            first_row=0,
            stop_row=boxes[0].rows,
            first_column=0,
            stop_column=columns,
        )
        self._pieces.setdefault(fused.names[0], []).append(piece)

    def _compare_copies(self) -> None:
        for one, other in self._copies:
            left, right = _entry_of(one), _entry_of(other)
            if left.dtype != right.dtype or left.shape != right.shape:
                differs = f"{right.dtype} {list(right.shape)} against {left.dtype} {list(left.shape)}"
            elif (at := first_difference(left, right)) is not None:
                place = _place_of(at // DTYPE_BYTES[left.dtype], left.shape)
                differs = f"the first difference is at {place}"
            else:
                continue
            message = f"differs from {one.key} in {one.file.parent.name}, which has to be equal: {differs}"
            self._problem(other.file, other.key, message, _DAMAGED)

    def _rank_path(self, stage: int, rank: int) -> Path:
        return self._folder.ranks[stage % self._folder.pp, rank].path

    def _problem(self, file: Path, key: str, message: str, fix: str) -> None:
        if len(self._problems) < SHOWN:
            self._problems.append(
                Problem(where=printable(str(file)), key=printable(key, 160), message=message, fix=fix)
            )

    def _stop_if_wrong(self) -> None:
        if self._problems:
            raise WeightsError(self._problems)


def _dense_pieces(fused: FusedTensor, rank: int, found: FoundTensor) -> Iterator[tuple[str, Piece]]:
    """Give (HF name, piece) for each box that a rank's tensor holds, one below the other."""
    item = DTYPE_BYTES[found.tensor.storage.dtype]
    start = found.start + found.tensor.offset * item
    for box in fused.boxes(rank):
        yield (
            box.name,
            Piece(
                file=found.file,
                start=start,
                first_row=box.first_row,
                stop_row=box.stop_row,
                first_column=box.first_column,
                stop_column=box.stop_column,
            ),
        )
        start += box.rows * box.columns * item


def _entry_of(found: FoundTensor) -> TensorEntry:
    tensor = found.tensor
    item = DTYPE_BYTES[tensor.storage.dtype]
    start = found.start + tensor.offset * item
    return TensorEntry(
        name=found.key,
        file=found.file,
        dtype=tensor.storage.dtype,
        shape=tensor.shape,
        start=start,
        stop=start + tensor.size * item,
    )


def _storage_of(found: FoundTensor) -> FoundTensor:
    """Give the storage behind a view by columns as a tensor of its own."""
    storage, columns = found.tensor.storage, found.tensor.strides[0]
    whole = TorchTensor(storage, 0, (storage.count // columns, columns), (columns, 1))
    return FoundTensor(key=found.key, file=found.file, start=found.start, tensor=whole)


def _place_of(element: int, shape: tuple[int, ...]) -> list[int]:
    place = []
    for extent in reversed(shape):
        place.append(element % extent)
        element //= extent
    return place[::-1]
