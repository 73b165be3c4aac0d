"""Weights folders in any layout, spelling and dtype, with random bits in every tensor, and `qvl` in this process."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import typer
from qvl_convert.commands import register
from qvl_core.cli.boundary import guarded
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, TextSpec, TokenIds, VisionSpec, to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.manifest import FileRecord, build_manifest, rank_file_name, rank_tensors, write_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_writer import checksum_of_file, write_safetensors
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import tensor_from_array


def build_spec(tied: bool) -> ModelSpec:
    """A model with every kind of tensor that four tensor ranks can share."""
    return ModelSpec(
        name="qwen2.5-vl-custom",
        vision=VisionSpec(
            depth=2,
            hidden_size=16,
            num_heads=4,
            intermediate_size=12,
            out_hidden_size=32,
            patch_size=2,
            window_size=8,
            full_attention_blocks=(1,),
        ),
        text=TextSpec(
            num_layers=3,
            hidden_size=32,
            intermediate_size=24,
            num_heads=4,
            num_kv_heads=4,
            vocab_size=48,
            tie_word_embeddings=tied,
            head_dim=8,
            mrope_section=(2, 1, 1),
        ),
        tokens=TokenIds(vision_start=40, vision_end=41, image=42, video=43),
    )


class Maker:
    """Makes folders of one model, with the same random bits in each."""

    def __init__(self, root, tied):
        self.root = root
        self.spec = build_spec(tied)
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

    def tensor(self, name, array):
        kind = self.kinds[name]
        view = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[kind]
        return tensor_from_array(name, np.ascontiguousarray(array).view(view), kind)

    def hf(self, name, changes=None, **options):
        arrays = {**self.arrays, **(changes or {})}
        write_hf_folder([self.tensor(*item) for item in arrays.items()], self.side, self.root / name, **options)
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
        folder, written, arrays = self.root / name, {}, {**self.arrays, **(changes or {})}
        folder.mkdir()
        for pp in range(layout.pp):
            rows = {row.name: row for row in rank_tensors(self.spec, layout, pp)}
            for tp in range(layout.tp):
                parts = [
                    self.tensor(row.name, cut(arrays[row.name], row.shard, tp=layout.tp, rank=tp))
                    for row in rows.values()
                ]
                file = rank_file_name(pp, tp)
                written[file] = write_safetensors(folder / file, parts)
                if optimizer is not None:
                    owners = {key: rows.get(split_name(key)[0]) for key in optimizer}
                    parts = [
                        tensor_from_array(key, cut(optimizer[key], row.shard, tp=layout.tp, rank=tp))
                        for key, row in owners.items()
                        if row is not None
                    ]
                    file = optimizer_file_name(pp, tp)
                    written[file] = write_safetensors(folder / file, parts)
        for file in self.side.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        others = {}
        if state is not None:
            (folder / "state.json").write_text(state)
            checksum = checksum_of_file(folder / "state.json")
            others["state.json"] = FileRecord(size=len(state), checksum=checksum)
        manifest = build_manifest(
            self.spec,
            layout,
            written,
            self.kinds,
            source_revision="test",
            optimizer_dtypes=None if optimizer is None else dict.fromkeys(optimizer, "F32"),
            other_files=others,
        )
        write_manifest(folder, manifest)
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


@pytest.fixture(name="build_spec")
def _build_spec():
    return build_spec
