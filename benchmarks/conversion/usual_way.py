"""Convert the usual way: all tensors in one torch dict, renamed, split, and a torch.save for each rank.

    TORCH_PYTHON usual_way.py HF_FOLDER PLAN.json OUT

Runs in an interpreter that has torch and safetensors; nothing of qvl is imported. Names become those of the reference
stack as far as a prefix does that; the reordering of its fused q, k and v is left out, which favours this side.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def split(tensor, shard, tp):
    """Give the parts of the tensor ranks, each with memory of its own: of a view torch.save writes the whole memory."""
    if shard == "replicate":
        return [tensor] * tp
    if shard == "row":
        return [part.contiguous() for part in torch.chunk(tensor, tp, dim=1)]
    if shard == "fused_thirds":
        thirds = [torch.chunk(third, tp, dim=0) for third in torch.chunk(tensor, 3, dim=0)]
        return [torch.cat([third[rank] for third in thirds]) for rank in range(tp)]
    return [part.clone() for part in torch.chunk(tensor, tp, dim=0)]


def main():
    """Convert one folder."""
    source, plan_file, out = map(Path, sys.argv[1:])
    plan = json.loads(plan_file.read_text())
    whole = {}
    for file in sorted(source.glob("*.safetensors")):
        whole.update(load_file(file))
    ranks = {(stage, rank): {} for stage in range(plan["pp"]) for rank in range(plan["tp"])}
    for name, tensor in whole.items():
        row = plan["tensors"][name]
        renamed = name.replace("visual.", "image_encoder.encoder.").replace("model.", "text_decoder.decoder.")
        for rank, part in enumerate(split(tensor, row["shard"], plan["tp"])):
            for stage in row["stages"]:
                ranks[stage, rank][renamed] = part
    for (stage, rank), tensors in ranks.items():
        folder = out / "release" / f"mp_rank_{rank:02d}_{stage:03d}"
        folder.mkdir(parents=True)
        torch.save({"model": tensors}, folder / "model_optim_rng.pt")


main()
