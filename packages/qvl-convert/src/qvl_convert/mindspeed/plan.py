"""Plan a folder of the reference stack: `release/mp_rank_TT[_PPP]/model_optim_rng.pt`, as mm-convert would write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from qvl_core.durable import atomic_write
from qvl_core.errors import Problem, RecipeError, WeightsError
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.params import EMBEDDING
from qvl_core.weights.hf_folder import SHOWN
from qvl_core.weights.safetensors_writer import WrittenFile
from qvl_core.weights.whole_tensors import WholeTensor, WholeTensors

from qvl_convert.mindspeed.archive_plan import ArchivePlan, TensorOutline, plan_archive
from qvl_convert.mindspeed.folder import LATEST, RANK_FILE, RELEASE, rank_folder_name
from qvl_convert.mindspeed.key_map import Box, FusedTensor, fused_tensors
from qvl_convert.plan_sharded import identity_of
from qvl_convert.transfer import Job, Place, PlannedFile, Segment, Stream, Target, Task

KIND = "export to MindSpeed-MM"
# The names of the rank folders have two and three digits.
MOST_TENSOR_RANKS, MOST_STAGES = 100, 1000


def plan_mindspeed(source: WholeTensors, layout: Layout) -> Job:
    """Give the job that writes the weights of `source`, cut for a layout, in the reference stack's form.

    Optimizer state is left out. Raises RecipeError if the layout is not legal, WeightsError if tensors that are fused
    into one differ in dtype.
    """
    _require_layout(source, layout)
    layout = replace(layout, dp=1)
    fused = fused_tensors(source.spec, layout, tied_copy=layout.pp > 1)
    _require_one_dtype(source, fused)
    archives = {name: plan_archive(outlines) for name, outlines in _outlines(source, fused, layout).items()}
    files = tuple(
        PlannedFile(name=name, size=plan.size, fixed=plan.fixed, digest="crc32", finish=plan.finish)
        for name, plan in archives.items()
    )
    copies = [one for one in fused if one.is_tied_copy]
    tasks = tuple(
        _task(source, one, copies if one.names == (EMBEDDING,) else [], layout, archives)
        for one in fused
        if not one.is_tied_copy
    )
    return Job(
        kind=KIND,
        source_paths=(source.path,),
        inputs=source.inputs,
        files=files,
        tasks=tasks,
        identity=identity_of(KIND, source, files),
        complete=_complete,
    )


def rank_file(pp: int, tp: int, *, stages: int) -> str:
    """Give the name of a rank's file below the output folder."""
    return f"{RELEASE}/{rank_folder_name(pp, tp, stages=stages)}/{RANK_FILE}"


def _require_layout(source: WholeTensors, layout: Layout) -> None:
    problems = check_layout(source.spec, layout)
    for key, degree, most in (("tp", layout.tp, MOST_TENSOR_RANKS), ("pp", layout.pp, MOST_STAGES)):
        if degree > most:
            message = f"is {degree}; the names of MindSpeed-MM's folders have room for {most}"
            problems.append(Problem(where="", key=f"layout.{key}", message=message, fix=f"{key} = {most}"))
    if problems:
        raise RecipeError(replace(problem, where="layout for MindSpeed-MM") for problem in problems)


def _require_one_dtype(source: WholeTensors, fused: tuple[FusedTensor, ...]) -> None:
    problems = []
    for one in fused:
        kinds = {name: source.tensors[name].dtype for name in one.names}
        if len(set(kinds.values())) > 1:
            message = "becomes one tensor there, but is " + ", ".join(
                f"{kind} in {name}" for name, kind in kinds.items()
            )
            fix = "save the checkpoint again with one dtype"
            problems.append(Problem(where=printable(str(source.path)), key=one.key, message=message, fix=fix))
    if problems:
        raise WeightsError(problems[:SHOWN])


def _outlines(source: WholeTensors, fused: tuple[FusedTensor, ...], layout: Layout) -> dict[str, list[TensorOutline]]:
    outlines: dict[str, list[TensorOutline]] = {
        rank_file(pp, tp, stages=layout.pp): [] for pp in range(layout.pp) for tp in range(layout.tp)
    }
    for one in fused:
        dtype = source.tensors[one.names[0]].dtype
        for rank in range(layout.tp):
            outline = TensorOutline(key=one.key, dtype=dtype, shape=one.shape(rank))
            outlines[rank_file(one.stage, rank, stages=layout.pp)].append(outline)
    return outlines


def _task(
    source: WholeTensors,
    fused: FusedTensor,
    copies: list[FusedTensor],
    layout: Layout,
    archives: Mapping[str, ArchivePlan],
) -> Task:
    """Give the task of one fused tensor: a stream for each rank, or one for all, each into every file that holds it."""
    item = source.tensors[fused.names[0]].item_bytes
    streams = []
    for rank, boxes in enumerate(fused.ranks):
        holders = range(layout.tp) if fused.replicated else (rank,)
        places = tuple(
            Place(file=name, key=one.key, offset=archives[name].starts[one.key])
            for one in (fused, *copies)
            for name in (rank_file(one.stage, holder, stages=layout.pp) for holder in holders)
        )
        streams.append(Stream(size=sum(box.rows * box.columns for box in boxes) * item, places=places))
    return Task(
        name=" + ".join(fused.names),
        segments=tuple(_segments(source.tensors, fused)),
        streams=tuple(streams),
        in_order=_is_in_order(fused),
    )


def _segments(tensors: Mapping[str, WholeTensor], fused: FusedTensor) -> Iterator[Segment]:
    by_rows: dict[tuple[str, int, int], list[Target]] = {}
    for rank, boxes in enumerate(fused.ranks):
        for box in boxes:
            by_rows.setdefault((box.name, box.first_row, box.stop_row), []).append(_target(rank, box, tensors))
    # Ranks that are columns of the same rows share a segment: the rows are read once.
    for (name, first, stop), targets in by_rows.items():
        yield Segment(tensor=tensors[name], first=first, stop=stop, targets=tuple(targets))


def _target(rank: int, box: Box, tensors: Mapping[str, WholeTensor]) -> Target:
    item = tensors[box.name].item_bytes
    return Target(stream=rank, first_byte=box.first_column * item, stop_byte=box.stop_column * item)


def _is_in_order(fused: FusedTensor) -> bool:
    """Tell whether the rows of every HF tensor are taken from the first to the last, so that checksums can follow."""
    position = dict.fromkeys(fused.names, 0)
    seen: set[tuple[str, int]] = set()
    for box in (box for boxes in fused.ranks for box in boxes):
        if (box.name, box.first_row) in seen:
            continue
        if box.first_row != position[box.name]:
            return False
        seen.add((box.name, box.first_row))
        position[box.name] = box.stop_row
    return True


def _complete(folder: Path, written: Mapping[str, WrittenFile]) -> None:
    # Last: without it the reference stack finds no checkpoint. It compares the text as it stands: no line end.
    atomic_write(folder / LATEST, RELEASE)
