"""Sharded folders and checkpoints of whole arrays, in any layout, and a small model that has many layouts."""

from qvl_core.specs import ModelSpec, TextSpec, TokenIds, VisionSpec
from qvl_core.weights.manifest import build_manifest, rank_file_name, rank_tensors, write_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import tensor_from_array


def write_sharded(folder, spec, layout, arrays, optimizer=None, kinds=None) -> None:
    """Write rank files, optimizer files and manifest of whole arrays; of BF16 ones (in `kinds`) raw bits."""
    kinds, written = kinds or dict.fromkeys(arrays, "F32"), {}
    for pp in range(layout.pp):
        rows = {row.name: row for row in rank_tensors(spec, layout, pp)}
        for tp in range(layout.tp):
            for file, whole in ((rank_file_name(pp, tp), arrays), (optimizer_file_name(pp, tp), optimizer)):
                if whole is None:
                    continue
                owners = {name: rows.get(name) or rows.get(split_name(name)[0]) for name in whole}
                parts = [
                    tensor_from_array(name, cut(whole[name], row.shard, tp=layout.tp, rank=tp), kinds.get(name))
                    for name, row in owners.items()
                    if row is not None
                ]
                written[file] = write_safetensors(folder / file, parts)
    dtypes = {name: kinds.get(name, "F32") for name in optimizer} if optimizer is not None else None
    manifest = build_manifest(spec, layout, written, kinds, source_revision="test", optimizer_dtypes=dtypes)
    write_manifest(folder, manifest)


def divisible_spec(tied: bool) -> ModelSpec:
    """Give a model with every kind of tensor that up to four tensor ranks can share, of few bytes."""
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
