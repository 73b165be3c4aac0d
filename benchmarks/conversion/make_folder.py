"""Write an HF folder of Qwen2.5-VL at full width, cut to a few layers, with random bytes; print its size in bytes.

    python make_folder.py --model qwen2.5-vl-7b --text 4 --vision 8 --out DIR [--vocabulary 8192] [--plan tp,pp FILE]

A process of its own: the one that measures has to stay small, because a child's largest size counts that of its
parent. `--plan` writes, as JSON, how every tensor is cut for a layout: the usual way is told that.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from qvl_core.layout import Layout
from qvl_core.layout_rules import derive_stages
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, load_spec, to_hf_config
from qvl_core.weights.hf_folder import INDEX_FILE
from qvl_core.weights.hf_writer import index_of, plan_shards, write_json
from qvl_core.weights.safetensors_writer import TensorShape, outline

SHARD_BYTES = 4 * 10**9
BLOCK_BYTES = 8 * 1024**2


def cut_spec(name: str, text: int, vision: int, vocabulary: int | None) -> ModelSpec:
    """Give the model at its full width with fewer layers."""
    spec = load_spec(name)
    tokens = spec.tokens
    if vocabulary is not None:
        tokens = replace(tokens, vision_start=0, vision_end=1, image=2, video=3)
    return replace(
        spec,
        name="qwen2.5-vl-custom",
        text=replace(spec.text, num_layers=text, vocab_size=vocabulary or spec.text.vocab_size),
        vision=replace(spec.vision, depth=vision, full_attention_blocks=(vision - 1,)),
        tokens=tokens,
    )


def write_folder(spec: ModelSpec, out: Path) -> int:
    """Write the folder and give the bytes of its weights files."""
    out.mkdir(parents=True)
    shapes = {row.name: TensorShape(name=row.name, dtype="BF16", shape=row.shape) for row in parameter_table(spec)}
    shards = plan_shards([(name, shape.size) for name, shape in shapes.items()], SHARD_BYTES)
    random = np.random.Generator(np.random.SFC64(1))
    written = 0
    for file, names in shards.items():
        plan = outline([shapes[name] for name in names])
        with (out / file).open("wb", buffering=0) as weights:
            weights.write(plan.header)
            # Random, so that no disk below can make them fewer.
            for start in range(len(plan.header), plan.size, BLOCK_BYTES):
                count = min(BLOCK_BYTES, plan.size - start)
                weights.write(random.integers(0, 2**64, -(-count // 8), np.uint64).view(np.uint8)[:count].data)
        written += plan.size
    if len(shards) > 1:
        write_json(out / INDEX_FILE, index_of(shards, sum(shape.size for shape in shapes.values())))
    write_json(out / "config.json", to_hf_config(spec))
    return written


def write_plan(spec: ModelSpec, tp: int, pp: int, out: Path) -> None:
    """Write how every tensor is cut for a layout: its shard rule and its stages."""
    vision, text = derive_stages(spec, pp)
    layout = Layout(tp=tp, pp=pp, vision_stages=tuple(vision), text_stages=tuple(text))
    table = {row.name: {"shard": row.shard, "stages": list(row.stages)} for row in parameter_table(spec, layout)}
    write_json(out, {"tp": tp, "pp": pp, "tensors": table})


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=int, required=True)
    parser.add_argument("--vision", type=int, required=True)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", nargs=2, metavar=("TP,PP", "FILE"))
    given = parser.parse_args()
    spec = cut_spec(given.model, given.text, given.vision, given.vocabulary)
    print(json.dumps({"bytes": write_folder(spec, given.out)}))
    if given.plan:
        tp, pp = map(int, given.plan[0].split(","))
        write_plan(spec, tp, pp, Path(given.plan[1]))


if __name__ == "__main__":
    main()
