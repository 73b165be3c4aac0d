"""Which checkpoint a run goes on from: chosen on the first rank, compared with its checksums by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import Problem, RunError, WeightsError

from qvl_train.agreement import together
from qvl_train.checkpoint import Checkpoint, check_requested, list_steps, naming_nearest, open_checkpoint

if TYPE_CHECKING:
    from qvl_core.parallel.world import World


def choose_checkpoint(world: World, run: Path, resume: str, say: Callable[[str], None]) -> Checkpoint | None:
    """Open the checkpoint that `resume` asks for ("auto": the newest usable one); None where the run has none.

    All ranks call it and get the same. Raises what keeps a requested one from being used; RunError if there are
    checkpoints and none of them is usable.
    """
    if resume not in ("auto", "never"):
        return _requested(world, run, Path(resume))
    (names, *_) = together(world, lambda: [path.name for _, path in list_steps(run)] if world.rank == 0 else None)
    assert isinstance(names, list)
    for name in names:
        found, problem = _try_to_open(world, run / str(name))
        if found is not None:
            return found
        say(f"passed over a checkpoint that cannot be used:\n{problem}")
    if names:
        raise RunError(
            f"{run}: none of its {len(names)} checkpoints can be used\n"
            "fix: restore one, or start again in another folder: --set output.dir=runs/another_name"
        )
    return None


def require_own(checkpoint: Checkpoint, run_id: str, data_hashes: Collection[str]) -> None:
    """Raise WeightsError if a checkpoint was put here from another run, or goes on from data that this run never had.

    `data_hashes` are those of now and of the run's accepted past; a checkpoint of an older version tells none.
    """
    state = checkpoint.state
    if state.run_id != run_id:
        message = f"belongs to run {state.run_id}; this folder's run is {run_id}"
    elif state.data_hash and state.data_hash not in data_hashes:
        message = f"was trained on data {state.data_hash[:12]}; this run's is {', '.join(h[:12] for h in data_hashes)}"
    else:
        return
    fix = "take it out of the folder; or start a new run from its weights: --set weights.source=DIR"
    raise WeightsError(Problem(where=str(checkpoint.folder.path), key="--resume", message=message, fix=fix))


def _requested(world: World, run: Path, path: Path) -> Checkpoint:
    found: list[Checkpoint] = []

    def take() -> None:
        check_requested(run, path)
        with naming_nearest(run, path):
            found.append(_open_share(world, path))

    together(world, take)
    return found[0]


def _try_to_open(world: World, path: Path) -> tuple[Checkpoint | None, str]:
    """Open a checkpoint, or give what the first rank that cannot use it says is wrong with it."""
    found: list[Checkpoint] = []

    def attempt() -> str:
        try:
            found.append(_open_share(world, path))
        except (WeightsError, RunError) as error:
            # Also a disk that cannot be read there any more: an older one may be.
            return str(error)
        return ""

    problem = next((str(text) for text in together(world, attempt) if text), "")
    return (None, problem) if problem else (found[0], "")


def _open_share(world: World, path: Path) -> Checkpoint:
    return open_checkpoint(path, part=world.rank, parts=world.layout.world_size)
