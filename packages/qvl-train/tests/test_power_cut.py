"""The power may fail at any moment of a run's writing: what is left is a run that can go on, from the newest promise.

Every sync in the code that these runs come through is then left out, alone: each has to be missed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from power_cut import Log, Recorder, cut_everywhere
from qvl_core.durable import TEMPORARY_MARK, TRASH_MARK, atomic_write, make_folder, new_file, new_folder, remove_folder
from qvl_core.errors import QvlError
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs.hf_config import to_hf_config
from qvl_core.weights.manifest import rank_tensors
from qvl_core.weights.sharding import cut
from qvl_train.checkpoint import TrainingState, list_steps, open_checkpoint, set_aside_later
from qvl_train.commit import Origin
from qvl_train.save import Saver
from qvl_train.slices import slice_length
from qvl_train.snapshot import Contents
from qvl_train.stored_tensor import OwnPart, StoredTensor
from sharded_folders import divisible_spec
from thread_worlds import run_ranks

SEED = 20261126
SPEC = divisible_spec(tied=True)
WHOLE = {row.name: np.full(row.shape, i, np.float32) for i, row in enumerate(parameter_table(SPEC))}
SHARED = Layout(dp=2, vision_stages=(2,), text_stages=(3,))
NOTHING = None


def contents(world: Any, step: int) -> Contents:
    """Give weights, and for some of them moments, that tell the step; moments in slices where there are replicas."""

    def stored(name: str, array: NDArray[Any]) -> StoredTensor:
        return StoredTensor(name=name, dtype="F32", shape=array.shape, read=lambda: array)

    def sliced(name: str, array: NDArray[Any]) -> StoredTensor:
        length = slice_length(array.size, world.data.size)
        start = min(world.data.index * length, array.size)
        stop = min(start + length, array.size)
        own = OwnPart(start=start, stop=stop, read=lambda: array.reshape(-1)[start:stop].copy())
        return StoredTensor(name=name, dtype="F32", shape=array.shape, read=lambda: array, own=own)

    rows = rank_tensors(SPEC, world.layout, world.place.pp)
    arrays = {row.name: cut(WHOLE[row.name], row.shard, tp=world.layout.tp, rank=world.place.tp) + step for row in rows}
    moments = {f"{name}.moment1": -array for name, array in list(arrays.items())[:4]}
    state = [(sliced if world.layout.dp > 1 else stored)(name, array) for name, array in moments.items()]
    return Contents(weights=[stored(name, array) for name, array in arrays.items()], optimizer=state)


class Scene:
    """A run's folder under a recorder."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        self.recorder = recorder
        self.side_files = folder / "source"
        self.run = folder / "disk" / "run"

    def save(self, *steps: int, keep: int, seen: Mapping[int, set[Any]], layout: Layout | None = None) -> None:
        """Save steps one after another; `seen` says for each what may be newest while it is saved."""
        origin = Origin(spec=SPEC, side_files=self.side_files, source_revision="test")

        def work(world: Any) -> None:
            with Saver(world, self.run, origin, keep=keep, in_background=False) as saver:
                for step in steps:
                    world.exchange(None)
                    if world.rank == 0:
                        self.recorder.expect(newest=seen[step])
                    world.exchange(None)
                    saver.start(
                        TrainingState(step=step, consumed_samples=step, run_id="r", has_optimizer=True),
                        contents(world, step),
                    )
                    saver.finish()
                    if world.rank == 0:
                        self.recorder.expect(newest={step})

        for result in run_ranks(layout or Layout.single(SPEC), work):
            if isinstance(result, Exception):
                raise result

    def write_record(self, old: str | None, new: str) -> None:
        self.recorder.expect(record={old, new})
        atomic_write(self.run / "run.json", new)
        self.recorder.expect(record={new})

    def export(self, text: str) -> None:
        self.recorder.expect(hf={NOTHING, text})
        with new_folder(self.run / "hf") as folder:
            for name in ("config.json", "model.safetensors"):
                with new_file(folder / name) as file:
                    file.write((text + name).encode())
        self.recorder.expect(hf={text})


def fresh_run(scene: Scene) -> None:
    scene.recorder.expect(newest={NOTHING}, record={NOTHING}, hf={NOTHING})
    make_folder(scene.run)
    scene.write_record(NOTHING, "first")


def one_kept(scene: Scene) -> None:
    """Three saves, of which one is kept; the record is written again, an export is replaced."""
    fresh_run(scene)
    scene.save(1, 2, 3, keep=1, seen={1: {NOTHING, 1}, 2: {1, 2}, 3: {2, 3}})
    scene.export("one")
    scene.recorder.expect(hf={"one", NOTHING})
    remove_folder(scene.run / "hf")
    scene.export("two")
    scene.write_record("first", "second" * 2000)


def older_continued(scene: Scene) -> None:
    """Four saves, of which two are kept; then on from the third, whose successor is replaced, and from it again."""
    fresh_run(scene)
    scene.save(1, 2, 3, 4, keep=2, seen={1: {NOTHING, 1}, 2: {1, 2}, 3: {2, 3}, 4: {3, 4}})
    # Where a step is saved again, a cut may leave the one that the run went on from, and no other.
    scene.save(4, keep=2, seen={4: {3, 4}})
    scene.save(3, keep=2, seen={3: {4, 3}})
    scene.save(4, 5, keep=3, seen={4: {3, 4}, 5: {4, 5}})
    scene.recorder.expect(newest={3, 4, 5})
    set_aside_later(scene.run, 3)
    scene.recorder.expect(newest={3})


def replicas_share_a_file(scene: Scene) -> None:
    """Two saves of two replicas with slices of the optimizer."""
    fresh_run(scene)
    scene.save(1, 2, keep=1, seen={1: {NOTHING, 1}, 2: {1, 2}}, layout=SHARED)


SCENES = [one_kept, older_continued, replicas_share_a_file]


def look(folder: Path) -> dict[str, Any]:
    """Do what the next start does: find the newest checkpoint, open all; give what there is, or what went wrong."""
    run = folder / "run"
    newest: Any = NOTHING
    for step, path in list_steps(run):
        try:
            opened = open_checkpoint(path)
        except QvlError as error:
            newest = f"broken step {step}: {error}"
            break
        # Not of two saves: `open_checkpoint` has compared every tensor with the manifest, and the step with the name.
        assert opened.state.consumed_samples == step
        newest = step if newest is NOTHING else newest
    record = run / "run.json"
    hf = run / "hf"
    texts = {path.name: path.read_text() for path in hf.iterdir()} if hf.is_dir() else {}
    exported: Any = {texts[name].removesuffix(name) for name in texts}
    return {
        "newest": newest,
        "record": record.read_text() if record.exists() else NOTHING,
        "hf": NOTHING if not hf.is_dir() else exported.pop() if len(texts) == 2 and len(exported) == 1 else "broken",
    }


def is_seen(name: str) -> bool:
    return TEMPORARY_MARK not in name and TRASH_MARK not in name


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Log]:
    """Record each scene once."""
    found = {}
    for scene in SCENES:
        folder = tmp_path_factory.mktemp(scene.__name__)
        (folder / "source").mkdir()
        (folder / "source" / "config.json").write_text(json.dumps(to_hf_config(SPEC)))
        (folder / "disk").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            recorder = Recorder(folder / "disk", patch)
            scene(Scene(folder, recorder))
        found[scene.__name__] = recorder.log
    return found


@pytest.mark.parametrize("scene", [scene.__name__ for scene in SCENES])
def test_whatever_a_power_cut_leaves_is_complete_and_the_newest_that_was_promised(
    logs: dict[str, Log], scene: str, tmp_path: Path
) -> None:
    verdict = cut_everywhere(logs[scene], look, is_seen, tmp_path, seed=SEED)
    print(f"{scene}: {verdict.states} states, {verdict.looked_at} different, seed {SEED}")
    assert not verdict.violation, verdict.violation
    assert verdict.states > 1000


def test_every_sync_is_missed_when_it_is_left_out(logs: dict[str, Log], tmp_path: Path) -> None:
    sites = sorted({site for log in logs.values() for site in log.sites})
    print(f"{len(sites)} places that sync, seed {SEED}")
    assert len(sites) >= 8, sites
    unnoticed = []
    for number, site in enumerate(sites):
        for name, log in logs.items():
            if site in log.sites:
                workspace = tmp_path / f"{number}-{name}"
                workspace.mkdir()
                verdict = cut_everywhere(log, look, is_seen, workspace, muted=site, seed=SEED)
                shutil.rmtree(workspace)
                if verdict.violation:
                    print(f"{site}: {name}, {verdict.violation[:160]}")
                    break
        else:
            unnoticed.append(site)
    assert not unnoticed
