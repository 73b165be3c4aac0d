"""Weights folders in any layout, spelling and dtype, with random bits in every tensor."""

import json

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, TextSpec, TokenIds, VisionSpec, to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.manifest import build_manifest, rank_file_name, rank_tensors, write_manifest
from qvl_core.weights.safetensors_writer import write_safetensors
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
        self.kinds = {row.name: "BF16" if row.size % 3 else "F32" for row in parameter_table(self.spec)}
        # Random bits, so that infinities and many kinds of not-a-number are among them.
        self.arrays = {
            row.name: random.integers(0, 2**16, row.shape, np.uint16)
            if self.kinds[row.name] == "BF16"
            else random.integers(0, 2**32, row.shape, np.uint32)
            for row in parameter_table(self.spec)
        }
        self.side = root / "side"
        self.side.mkdir()
        (self.side / "config.json").write_text(json.dumps(to_hf_config(self.spec)))
        (self.side / "tokenizer.json").write_text("{}")

    def tensor(self, name, array):
        kind = self.kinds[name]
        return tensor_from_array(name, array if kind == "BF16" else np.ascontiguousarray(array).view(np.float32), kind)

    def hf(self, name, changes=None, **options):
        arrays = {**self.arrays, **(changes or {})}
        write_hf_folder([self.tensor(*item) for item in arrays.items()], self.side, self.root / name, **options)
        return self.root / name

    def sharded(self, name, layout):
        folder, written = self.root / name, {}
        folder.mkdir()
        for pp in range(layout.pp):
            for tp in range(layout.tp):
                rows = rank_tensors(self.spec, layout, pp)
                parts = [
                    self.tensor(row.name, cut(self.arrays[row.name], row.shard, tp=layout.tp, rank=tp)) for row in rows
                ]
                file = rank_file_name(pp, tp)
                written[file] = write_safetensors(folder / file, parts)
        for file in self.side.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        write_manifest(folder, build_manifest(self.spec, layout, written, self.kinds, source_revision="test"))
        return folder


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
