"""What the ranks of a launch do for a case of the engine, and what the single process does: train, compare, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from comparison import RankResult, Reference, squares_of


def prepare() -> None:
    """Import MindSpore as a worker of a run does."""
    from qvl_core import device
    from qvl_core.params import parameter_count
    from specs import TINY

    device.prepare("cpu")
    device.confine_small_model(parameter_count(TINY))
    device.require_mindspore()


def run_case(case: Case, comm: Any, folder: Path, board: Any) -> RankResult:
    """Train a case on this rank of `comm`; give how far its gradients are from the reference's."""
    from engine import train
    from qvl_core.parallel.mpi import MpiWorld
    from qvl_core.parallel.single import SingleWorld
    from sabotage import spoil_world
    from specs import SPECS

    spec = SPECS[case.spec]
    is_single = case.world_size == 1
    world = SingleWorld(case.layout, board) if is_single else MpiWorld(case.layout, spec, board, comm=comm)
    spoil_world(world, case)
    trained = train(case, world)
    world.close()
    place = world.place
    with np.load(reference_path(folder, case)) as reference:
        squares = squares_of(case, trained.gradients, reference, place.tp)
    return {
        "place": (place.pp, place.dp, place.tp),
        "losses": trained.losses,
        "norms": trained.norms,
        "squares": squares,
        "digests": trained.digests,
        "validation": trained.validation,
    }


def write_reference(case: Case, folder: Path) -> None:
    """Train the single process of a case and write what it has."""
    from engine import train
    from qvl_core.parallel.single import SingleWorld

    trained = train(case, SingleWorld(case.layout))
    path = reference_path(folder, case)
    found: Reference = {"losses": trained.losses, "norms": trained.norms, "validation": trained.validation}
    path.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
    np.savez(path, **trained.gradients)


def read_reference(folder: Path, case: Case) -> Reference:
    """Give what the single process of a case reported."""
    return json.loads(reference_path(folder, case).with_suffix(".json").read_text(encoding="utf-8"))


def reference_path(folder: Path, case: Case) -> Path:
    """Say where the reference of a case is; a run of one step and one of many steps share it."""
    from dataclasses import replace

    return folder / f"{replace(case.reference, steps=1).name}.npz"
