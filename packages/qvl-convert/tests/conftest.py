"""Weights folders in any layout, spelling and dtype, with random bits in every tensor, and `qvl` in this process."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from qvl_convert.commands import register
from qvl_core.cli.boundary import guarded
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.manifest import FileRecord
from qvl_core.weights.safetensors_writer import checksum_of_file
from qvl_core.weights.tensor_io import tensor_from_array

# `sharded_folders` has small models and writes folders of any layout; the tests of qvl-core have it.
sys.path.insert(0, str(Path(__file__).parents[2] / "qvl-core" / "tests" / "weights"))

from sharded_folders import NUMPY, divisible_spec, write_sharded


class Maker:
    """Makes folders of one model, with the same random bits in each."""

    def __init__(self, root, tied):
        self.root = root
        self.spec = divisible_spec(tied)
        random = np.random.default_rng(7)
        table = parameter_table(self.spec)
        self.kinds = {row.name: ("BF16", "F32", "BF16", "F16")[i % 4] for i, row in enumerate(table)}
        # Random bits, so that infinities and many kinds of not-a-number are among them.
        self.arrays = {
            row.name: random.integers(0, 2**32, row.shape, np.uint32)
            if self.kinds[row.name] == "F32"
            else random.integers(0, 2**16, row.shape, np.uint16)
            for row in table
        }
        self.side = root / "side"
        self.side.mkdir()
        (self.side / "config.json").write_text(json.dumps(to_hf_config(self.spec)))
        (self.side / "tokenizer.json").write_text("{}")

    def values(self, changes=None):
        """Give the arrays in the numpy dtypes of their kinds."""
        return {name: array.view(NUMPY[self.kinds[name]]) for name, array in {**self.arrays, **(changes or {})}.items()}

    def hf(self, name, changes=None, **options):
        tensors = [tensor_from_array(key, array, self.kinds[key]) for key, array in self.values(changes).items()]
        write_hf_folder(tensors, self.side, self.root / name, **options)
        return self.root / name

    def moments(self):
        """Give optimizer state of everything but the vision tower, which is frozen."""
        random = np.random.default_rng(9)
        return {
            f"{row.name}.{kind}": random.standard_normal(row.shape, np.float32)
            for row in parameter_table(self.spec)
            for kind in ("moment1", "moment2")
            if row.component != "vision"
        }

    def sharded(self, name, layout, changes=None, optimizer=None, state=None):
        """Write a sharded folder; with `state` (text) and `optimizer` a training checkpoint."""
        folder, others = self.root / name, {}
        shutil.copytree(self.side, folder)
        if state is not None:
            (folder / "state.json").write_text(state)
            checksum = checksum_of_file(folder / "state.json")
            others["state.json"] = FileRecord(size=len(state), checksum=checksum)
        write_sharded(folder, self.spec, layout, self.values(changes), optimizer, self.kinds, others)
        return folder

    def checkpoint(self, name, layout):
        return self.sharded(name, layout, optimizer=self.moments(), state='{"step": 7}')


LAYOUTS = (
    Layout(vision_stages=(2,), text_stages=(3,)),
    Layout(vision_stages=(2,), text_stages=(3,), tp=2),
    Layout(vision_stages=(2,), text_stages=(3,), tp=4),
    Layout(vision_stages=(2, 0, 0), text_stages=(0, 1, 2), pp=3),
    Layout(vision_stages=(1, 1, 0), text_stages=(0, 1, 2), pp=3, tp=2),
)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def make(request, tmp_path):
    return Maker(tmp_path, request.param)


@pytest.fixture(params=LAYOUTS, ids=lambda layout: f"tp{layout.tp}-pp{layout.pp}")
def layout(request):
    return request.param


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def application():
    """Build `qvl` with `convert` once: that takes longer than a conversion of a few kilobytes."""
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    app.callback()(lambda: None)
    return typer.main.get_command(app)


@pytest.fixture
def qvl(application, capsys):
    """Run `qvl convert ...` as `qvl` does, errors as text and exit codes included."""

    def call(*words):
        line = ["convert", *map(str, words)]
        code = guarded(lambda: application(line, prog_name="qvl", standalone_mode=False) or 0)
        found = capsys.readouterr()
        return Result(code=code, out=found.out, err=found.err)

    return call


def flags_of(layout):
    """Give the flags that name a layout."""
    stages = [",".join(map(str, counts)) for counts in (layout.vision_stages, layout.text_stages)]
    return ("--tp", layout.tp, "--pp", layout.pp, "--vision-stages", stages[0], "--text-stages", stages[1])


@pytest.fixture(name="flags_of")
def _flags_of():
    return flags_of


def snapshot(folder):
    """Give everything below a folder: content, times and modes of files and folders, targets of links."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.fixture(name="snapshot")
def _snapshot():
    return snapshot
