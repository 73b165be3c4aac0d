"""Checkpoints of several ranks: replicas change no byte, an error of one rank is everybody's, copies are compared."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qvl_core import disk
from qvl_core.errors import QvlError, RunError
from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.specs.hf_config import to_hf_config
from qvl_core.weights.manifest import rank_tensors
from qvl_core.weights.sharding import cut
from qvl_core.weights.whole_tensors import open_whole_tensors
from qvl_train.checkpoint import TrainingState, read_optimizer, read_weights
from qvl_train.export import export_hf
from qvl_train.resume import choose_checkpoint
from qvl_train.save import Contents, Saver, save_checkpoint
from qvl_train.slices import slice_length
from qvl_train.stored_tensor import OwnPart, StoredTensor
from sharded_folders import divisible_spec
from thread_worlds import run_ranks

SPEC = divisible_spec(tied=True)
WHOLE = {
    row.name: np.random.default_rng(i).standard_normal(row.shape, np.float32)
    for i, row in enumerate(parameter_table(SPEC))
}
EIGHT = Layout(tp=2, pp=2, dp=2, vision_stages=(2, 0), text_stages=(1, 2))
OTHER = Layout(tp=4, pp=1, vision_stages=(2,), text_stages=(3,))
MATRICES = [name for name, array in WHOLE.items() if array.ndim > 1]

Change = Callable[[Any, str, NDArray[Any]], NDArray[Any]]


def local(layout: Layout, place: Coordinate) -> dict[str, NDArray[Any]]:
    """Give a rank's parts of the weights."""
    rows = rank_tensors(SPEC, layout, place.pp)
    return {row.name: cut(WHOLE[row.name], row.shard, tp=layout.tp, rank=place.tp) for row in rows}


def contents_of(world: Any, *, sliced: bool, change: Change) -> Contents:
    """Give what a rank saves: weights, and as moments of the matrices the negative weights."""
    arrays = local(world.layout, world.place)
    weights = [stored(name, change(world, name, array)) for name, array in arrays.items()]
    moments = {f"{name}.moment1": -array for name, array in arrays.items() if name in MATRICES}
    # The second of them stays whole also where the others are sliced.
    state = [
        sliced_tensor(world, name, array) if sliced and i != 1 else stored(name, array)
        for i, (name, array) in enumerate(moments.items())
    ]
    return Contents(weights=weights, optimizer=state)


def stored(name: str, array: NDArray[Any]) -> StoredTensor:
    return StoredTensor(name=name, dtype="F32", shape=array.shape, read=lambda: array)


def sliced_tensor(world: Any, name: str, array: NDArray[Any]) -> StoredTensor:
    """Give a tensor of which this replica has a slice only, as ZeRO-1 does; nobody may gather it to save it."""
    length = slice_length(array.size, world.data.size)
    start = min(world.data.index * length, array.size)
    stop = min(start + length, array.size)
    own = OwnPart(start=start, stop=stop, read=lambda: array.reshape(-1)[start:stop].copy())
    return StoredTensor(name=name, dtype="F32", shape=array.shape, read=lambda: pytest.fail("gathered"), own=own)


def unchanged(world: Any, name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array


@pytest.fixture
def save(tmp_path: Path) -> Any:
    side_files = tmp_path / "source"
    side_files.mkdir()
    (side_files / "config.json").write_text(json.dumps(to_hf_config(SPEC)))

    def run(
        folder: str,
        layout: Layout = EIGHT,
        *,
        sliced: bool = False,
        change: Change = unchanged,
        in_background: bool = False,
        step: int = 3,
    ) -> list[Path | Exception]:
        def work(world: Any) -> Path:
            return save_checkpoint(
                world,
                tmp_path / folder,
                TrainingState(step=step, consumed_samples=4 * step, run_id="r", has_optimizer=True),
                contents_of(world, sliced=sliced, change=change),
                spec=SPEC,
                side_files=side_files,
                source_revision="test",
                in_background=in_background,
            )

        return run_ranks(layout, work)

    return run


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give a function that makes every write into files of a name fail, after the file has been made."""

    def fill(name: str) -> None:
        names: dict[int, str] = {}

        def opening(real: Any) -> Any:
            def call(path: Path, mode: int) -> int:
                descriptor = real(path, mode)
                names[descriptor] = path.name
                return descriptor

            return call

        def writing(real: Any) -> Any:
            def call(descriptor: int, *data: Any) -> int:
                if name in names[descriptor]:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(descriptor, *data)

            return call

        for call, wrap in (("create", opening), ("join", opening), ("write", writing), ("write_at", writing)):
            monkeypatch.setattr(disk, call, wrap(getattr(disk, call)))

    return fill


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_rank_of_the_first_replica_writes_its_files(save: Any, tmp_path: Path) -> None:
    assert save("run") == [tmp_path / "run" / "step_000003"] * 8
    names = set(files_of(tmp_path / "run" / "step_000003"))
    ranks = [f"pp{pp:03d}-tt{tp:03d}.safetensors" for pp in (0, 1) for tp in (0, 1)]
    assert names == {
        *(f"rank-{rank}" for rank in ranks),
        *(f"optimizer-{rank}" for rank in ranks),
        *("manifest.json", "state.json", "config.json"),
    }
    assert open_whole_tensors(tmp_path / "run" / "step_000003").layout == Layout(
        tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 2)
    )


def test_replicas_and_their_slices_make_the_same_files_as_one_replica(save: Any, tmp_path: Path) -> None:
    save("one", Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 2)))
    save("two")
    save("sliced", sliced=True)
    save("background", sliced=True, in_background=True)
    one = files_of(tmp_path / "one" / "step_000003")
    assert files_of(tmp_path / "two" / "step_000003") == one
    assert files_of(tmp_path / "sliced" / "step_000003") == one
    assert files_of(tmp_path / "background" / "step_000003") == one


@pytest.mark.parametrize("layout", [OTHER, EIGHT, Layout.single(SPEC)])
def test_every_rank_reads_its_part_in_another_layout(save: Any, tmp_path: Path, layout: Layout) -> None:
    save("run")

    def work(world: Any) -> None:
        opened = choose_checkpoint(world, tmp_path / "run", "auto", print)
        assert opened is not None
        arrays = local(layout, world.place)
        weights = dict(read_weights(opened, layout, world.place))
        assert {name: array.tobytes() for name, array in weights.items()} == {
            name: array.tobytes() for name, array in arrays.items()
        }
        shapes = {f"{name}.moment1": array.shape for name, array in arrays.items() if name in MATRICES}
        moments = dict(read_optimizer(opened, layout, world.place, shapes))
        assert moments.keys() == shapes.keys()
        assert all((array == -arrays[name.removesuffix(".moment1")]).all() for name, array in moments.items())

    assert run_ranks(layout, work) == [None] * layout.world_size


def test_a_checkpoint_of_any_layout_is_exported_whole(save: Any, tmp_path: Path) -> None:
    save("run")
    save("single", Layout.single(SPEC))
    cut_up = export_hf(tmp_path / "run" / "step_000003", tmp_path / "run")
    whole = export_hf(tmp_path / "single" / "step_000003", tmp_path / "single")
    assert files_of(cut_up) == files_of(whole)


# What must not happen goes no further than the rank that it happens on.


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("file", ["rank-pp001-tt001.safetensors", "optimizer-pp000-tt000.safetensors"])
def test_a_full_disk_on_one_rank_is_the_error_of_all_and_leaves_nothing(
    save: Any, tmp_path: Path, full_disk: Any, sliced: bool, file: str, in_background: bool
) -> None:
    full_disk(file)
    results = save("run", sliced=sliced, in_background=in_background)
    assert all(isinstance(error, QvlError) for error in results), results
    assert all(f"{file}: cannot be written: No space left" in str(error) for error in results)
    assert {error.exit_code for error in results} == {1}
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("file", ["state.json", "manifest.json"])
def test_a_failure_of_the_first_rank_is_the_error_of_all_too(
    save: Any, tmp_path: Path, full_disk: Any, file: str
) -> None:
    full_disk(file)
    results = save("run")
    assert all("No space left" in str(error) for error in results), results
    assert list((tmp_path / "run").iterdir()) == []


def test_a_rank_without_memory_for_its_copy_ends_all_together(
    save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Saver._snapshot

    def fail(self: Any, contents: Contents) -> Any:
        if self._world.rank == 3:
            raise MemoryError("no memory for a copy")
        return snapshot(self, contents)

    monkeypatch.setattr(Saver, "_snapshot", fail)
    results = save("run", in_background=True)
    assert isinstance(results[3], MemoryError)
    others = [error for rank, error in enumerate(results) if rank != 3]
    assert all(str(error) == "MemoryError: no memory for a copy\n(on rank 3)" for error in others), results
    assert list((tmp_path / "run").iterdir()) == []


def one_bit(place: Coordinate, weight: str) -> Change:
    """Flip the last bit of one element of a weight on one rank."""

    def change(world: Any, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if world.place != place or name != weight:
            return array
        changed = np.ascontiguousarray(array).copy()
        changed.reshape(-1).view(np.uint32)[-1] ^= 1
        return changed

    return change


@pytest.mark.parametrize(
    ("place", "weight", "ranks"),
    [
        (Coordinate(pp=0, dp=1, tp=1), "visual.blocks.1.mlp.up_proj.weight", "ranks 1 and 3"),
        (Coordinate(pp=1, dp=0, tp=1), "model.norm.weight", "ranks 4 and 5"),
        (Coordinate(pp=1, dp=0, tp=0), EMBEDDING, "ranks 0 and 4"),
    ],
    ids=["replica", "tensor rank", "tied embedding"],
)
def test_copies_that_differ_in_a_bit_stop_the_run_before_anything_is_saved(
    save: Any, tmp_path: Path, place: Coordinate, weight: str, ranks: str
) -> None:
    for error in save("run", change=one_bit(place, weight)):
        assert isinstance(error, RunError)
        assert str(error).startswith(f"{weight} should be the same on {ranks}, and is not after step 3")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_damaged_file_is_found_by_the_rank_whose_share_it_is_and_all_take_the_older_checkpoint(
    save: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    save("run", step=4)
    save("run")
    for file in ("rank-pp001-tt000.safetensors", "optimizer-pp001-tt001.safetensors"):
        damaged = run / "step_000004" / file
        content = damaged.read_bytes()
        damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        said: list[str] = []

        def work(world: Any, said: list[str] = said) -> str:
            found = choose_checkpoint(world, run, "auto", said.append if world.rank == 0 else lambda text: None)
            assert found is not None
            return found.folder.path.name

        assert run_ranks(EIGHT, work) == ["step_000003"] * 8
        assert len(said) == 1
        assert file in said[0]
        damaged.write_bytes(content)
    asked = run_ranks(EIGHT, lambda world: choose_checkpoint(world, run, str(run / "step_000003"), print))
    assert [found.folder.path.name for found in asked] == ["step_000003"] * 8
    damaged.write_bytes(content[:-1])
    errors = run_ranks(EIGHT, lambda world: choose_checkpoint(world, run, str(run / "step_000004"), print))
    assert all(isinstance(error, QvlError) and error.exit_code == 2 for error in errors)
