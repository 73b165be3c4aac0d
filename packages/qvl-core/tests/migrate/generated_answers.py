"""Random inference and evaluation files of a size, with the values that their recipes have to have."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generated_folders import SIZES, TEXT

BENCHMARKS = {
    "ai2d_test": "./data/AI2D_TEST.tsv",
    "chartqa_test": "tsv//ChartQA_TEST.tsv",
    "docvqa_val": "/mnt/数据/DocVQA_VAL.tsv",
    "mmmu_dev_val": "MMMU_DEV_VAL.tsv",
}
# Stated temperature, top_k, top_p, and what they come to: one candidate is greedy.
GENERATION = (
    ((0.1, 1, 0.001), (0.0, 1, 1.0)),
    ((0.7, 20, 0.8), (0.7, 20, 0.8)),
    ((1, 50, 1.0), (1.0, 50, 1.0)),
    ((0.01, 1, 0.5), (0.0, 1, 1.0)),
)


@dataclass(kw_only=True)
class Answers:
    """Expected recipe values of one inference and one evaluation."""

    size: str
    infer: dict[str, Any] = field(default_factory=dict)
    eval: dict[str, Any] = field(default_factory=dict)


def generate_answers(folder: Path, seed: int) -> Answers:
    """Write inference_*.json/.sh and evaluate_*.json/.sh of one size."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    size = rng.choice(sorted(SIZES))
    made = Answers(size=size)
    for kind, expected in (("inference", made.infer), ("evaluate", made.eval)):
        content = _common(size, kind, expected, rng)
        content |= (_inference if kind == "inference" else _evaluation)(size, expected, rng)
        keys = list(content)
        rng.shuffle(keys)
        text = json.dumps({key: content[key] for key in keys}, indent=rng.choice((None, 4)), ensure_ascii=False)
        (folder / f"{kind}_qwen2_5_vl_{size}.json").write_text(text, encoding="utf-8")
        _script(folder, size, kind, expected, rng)
    return made


def _common(size: str, kind: str, expected: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    text, vision_ffn, degrees = SIZES[size]
    tp, pp, dp = rng.choice(degrees), rng.choice((1, 2, 4)), 1 if kind == "inference" else rng.choice((1, 2, 4))
    cuts = sorted(rng.sample(range(1, text[0]), pp - 1))
    layers = [high - low for low, high in zip([0, *cuts], [*cuts, text[0]], strict=True)]
    (temperature, top_k, top_p), comes_to = rng.choice(GENERATION)
    tokens, penalty = rng.choice((64, 256, 1024)), rng.choice((1, 1.05))
    low, high = rng.choice(((1_003_520, 12_845_056), (3136, 1_003_520)))
    expected |= {
        **{
            "model.name": f"qwen2.5-vl-{size}",
            "layout.tp": tp,
            "layout.pp": pp,
            "launch.devices_per_node": tp * pp * dp,
        },
        **{"layout.vision_stages": [32, *[0] * (pp - 1)], "layout.text_stages": layers},
        **({"layout.dp": dp} if kind == "evaluate" else {}),
        **{"generation.temperature": comes_to[0], "generation.top_k": comes_to[1], "generation.top_p": comes_to[2]},
        **{"generation.max_new_tokens": tokens, "generation.repetition_penalty": penalty},
        **{"data.image.min_pixels": low, "data.image.max_pixels": high, "weights.source": f"ckpt/hf/{size}"},
    }
    encoder = {"num_layers": 32, "hidden_size": 1280, "ffn_hidden_size": vision_ffn, "num_attention_heads": 16}
    numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": tokens}
    return {
        "image_encoder": {"vision_encoder": encoder | {"pipeline_num_layers": [32, *[0] * (pp - 1)]}},
        "text_decoder": {**dict(zip(TEXT, text, strict=True)), "pipeline_num_layers": layers},
        "tokenizer": {"hub_backend": "hf", "from_pretrained": f"./ckpt//hf/{size}"},
        "generation_config": numbers | {"repetition_penalty": penalty, "num_beams": 1, "do_sample": True},
        **{"dtype": "bf16", "device": "npu", "min_pixels": low, "max_pixels": high},
    }


def _inference(size: str, expected: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    prompts = ["What is in the picture?", "图里有什么？"]
    rng.shuffle(prompts)
    medium = rng.choice(("image", "video"))
    expected |= {"infer.prompt": prompts[0], f"infer.{medium}s": ["media/one.bin"], "output.dir": f"runs/{size}_infer"}
    stated = rng.choice(("./media/one.bin", ["media/one.bin"], ["media//one.bin", "media/two.bin"]))
    return {"prompts": rng.choice((prompts[0], prompts)), f"{medium}_path": stated}


def _evaluation(_: str, expected: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    name, path = rng.choice(sorted(BENCHMARKS.items()))
    custom = rng.choice((True, False, None))
    expected |= {"eval.benchmark": name, "eval.data": path.removeprefix("./").replace("//", "/")}
    expected |= {"eval.prompts": "default" if custom is False else "custom", "output.dir": "out/scores"}
    stated = {"dataset_path": path, "evaluation_dataset": name, "evaluation_model": "qwen2_vl_7b"}
    return stated | {"result_output_path": "./out/scores/"} | ({} if custom is None else {"use_custom_prompt": custom})


def _script(folder: Path, size: str, kind: str, expected: dict[str, Any], rng: random.Random) -> None:
    timeout = rng.randrange(120, 7201)
    expected["env.HCCL_CONNECT_TIMEOUT"] = timeout
    lines = [
        "#!/bin/bash",
        f"export HCCL_CONNECT_TIMEOUT={timeout} TOKENIZERS_PARALLELISM=false",
        f"NPUS_PER_NODE={expected['launch.devices_per_node']}",
        f'TP={expected["layout.tp"]} PP="{expected["layout.pp"]}" # 并行',
        f"MM_MODEL=examples/{kind}_qwen2_5_vl_{size}.json",
        f"msrun --local_worker_num=$NPUS_PER_NODE --worker_num $NPUS_PER_NODE {kind}_vlm.py \\",
        "  --tensor-model-parallel-size $TP --pipeline-model-parallel-size ${PP} --mm-model $MM_MODEL --bf16",
    ]
    end = rng.choice(("\n", "\r\n"))
    (folder / f"{kind}_qwen2_5_vl_{size}.sh").write_bytes((end.join(lines) + end).encode())
