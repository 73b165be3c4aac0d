"""Random folders of the reference stack with the values that a recipe has to have, known before anything is written.

The values come from the generator's own choice and the published sizes; nothing of qvl is asked. How a value is
written (quotes, defaults, arithmetic, continuations, comments, files that are sourced, ...) is drawn for each value.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Published sizes: text layers, hidden, ffn, heads, groups, vocabulary; vision ffn; legal degrees of tensor parallelism.
SIZES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "3b": ((36, 2048, 11008, 16, 2, 151936), 3420, (1, 2)),
    "7b": ((28, 3584, 18944, 28, 4, 152064), 3420, (1, 2, 4)),
    "32b": ((64, 5120, 27648, 40, 8, 152064), 3456, (1, 2, 4, 8)),
    "72b": ((80, 8192, 29568, 64, 8, 152064), 3456, (1, 2, 4, 8)),
}
TEXT = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "vocab_size")
COMMENTS = ("# 根据实际情况修改", "# seen to work", "# a \"quote\" and a 'single' one", "# $HOME `x` \\")


@dataclass(kw_only=True)
class Generated:
    """One size of a folder: `expected` recipe values, `strange` settings that nobody knows, the script's `options`."""

    size: str
    expected: dict[str, Any] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)
    options: dict[str, str | None] = field(default_factory=dict)
    script: str = ""
    comments_in_quotes: bool = False


def generate(folder: Path, seed: int) -> list[Generated]:
    """Write a random folder; give what its recipes have to hold."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    return [_one_size(folder, size, rng) for size in rng.sample(sorted(SIZES), rng.choice((1, 1, 2)))]


def _one_size(folder: Path, size: str, rng: random.Random) -> Generated:
    made = Generated(size=size)
    variables = _numbers(made, rng)
    _data(folder, made, rng)
    _model(folder, made, rng)
    _script(folder, made, variables, rng)
    return made


def _numbers(made: Generated, rng: random.Random) -> dict[str, str]:
    """Choose what the script states; give its variables, and put its options and their meaning into `made`."""
    tp, pp, dp = rng.choice(SIZES[made.size][2]), rng.choice((1, 2, 4)), rng.choice((1, 2, 3))
    nodes = rng.choice([count for count in (1, 2) if (tp * pp * dp) % count == 0])
    micro, accumulation = rng.choice((1, 2, 4)), rng.choice((1, 8, 96))
    length, steps = rng.choice((512, 1024, 4096)), rng.randrange(20, 20_000)
    port, host = rng.randrange(2000, 60_000), rng.choice(("localhost", "10.1.2.3", "node-0"))
    rate = rng.choice(("1.0e-5", "2e-6", "0.00003", "1E-4"))
    style, warmup = rng.choice(("cosine", "linear", "constant")), rng.choice(("0", "0.1", ".05"))
    decay, clip = rng.choice(("0", "0.0", "0.1")), rng.choice(("0.0", "1.0", "0.5"))
    save, log, seed, workers = rng.randrange(1, 5000), rng.randrange(1, 50), rng.randrange(10_000), rng.randrange(0, 9)
    reduction = rng.choice((None, "calculate-per-token-loss", "calculate-per-sample-loss"))
    zero, keeps = rng.random() < 0.5, rng.random() < 0.5
    made.options = {
        "local_worker_num": "$NPUS_PER_NODE",
        "worker_num": "$WORLD_SIZE",
        "master_addr": "$MASTER_ADDR",
        "master_port": "${MASTER_PORT}",
        "tensor-model-parallel-size": "${TP}",
        "pipeline-model-parallel-size": "$PP",
        "micro-batch-size": "${MBS}",
        "global-batch-size": "$GBS",
        "seq-length": "${SEQ_LEN}",
        **{"lr": rate, "lr-decay-style": style, "lr-warmup-fraction": warmup, "weight-decay": decay},
        **{"clip-grad": clip, "train-iters": str(steps), "save-interval": str(save), "log-interval": str(log)},
        **{"seed": str(seed), "num-workers": str(workers), "adam-beta2": "0.95", "bf16": None},
        **({reduction: None} if reduction else {}),
        **({"use-distributed-optimizer": None} if zero else {}),
        **({} if keeps else {"no-save-optim": None}),
        **{"save": "$SAVE_PATH", "mm-data": "$MM_DATA", "mm-model": "$MM_MODEL"},
    }
    if rng.random() < 0.5:
        made.options["flag-of-tomorrow"] = "3"
        made.strange.add("--flag-of-tomorrow")
    reductions = {None: "micro_batch", "calculate-per-token-loss": "token", "calculate-per-sample-loss": "sample"}
    made.expected |= {
        **{"layout.tp": tp, "layout.pp": pp, "layout.dp": dp, "layout.zero1": zero and dp > 1},
        **{"launch.devices_per_node": tp * pp * dp // nodes, "launch.nodes": nodes, "launch.master": f"{host}:{port}"},
        **{"train.micro_batch": micro, "train.global_batch": micro * accumulation * dp, "train.steps": steps},
        **{"data.sequence_length": length, "data.workers": workers, "train.seed": seed},
        **{"train.optimizer.lr": float(rate), "train.optimizer.weight_decay": float(decay)},
        **{"train.optimizer.clip_norm": float(clip), "train.optimizer.betas": [0.9, 0.95]},
        **{"train.schedule.name": style, "train.schedule.warmup": float(warmup), "train.save.every": save},
        **{"train.save.optimizer": keeps, "train.log.every": log, "train.loss_reduction": reductions[reduction]},
        "output.dir": f"save {made.size}/out",
    }
    return {
        "NPUS_PER_NODE": str(tp * pp * dp // nodes),
        "NNODES": str(nodes),
        "WORLD_SIZE": "$(($NPUS_PER_NODE * NNODES))",
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        **{"TP": str(tp), "PP": str(pp), "MBS": str(micro), "GRAD_ACC_STEP": str(accumulation)},
        "DP": "$((WORLD_SIZE / $TP / ${PP}))",
        "GBS": "$(( MBS * $GRAD_ACC_STEP * $DP ))",
        "SEQ_LEN": str(length),
    }


def _data(folder: Path, made: Generated, rng: random.Random) -> None:
    low, high = rng.choice((0, 3136, 50_176)), rng.choice((262_144, 1_003_520))
    files = [f"./data/part{number}.json" for number in range(rng.randrange(1, 4))]
    root, cache = rng.choice(("./data", "/mnt/图片", "data//media/")), rng.choice(("./cache", "/local/cache_dir"))
    llava, prompt, last = rng.random() < 0.4, rng.random() < 0.3, rng.random() < 0.2
    limit = rng.choice((None, 1000)) if len(files) == 1 else None
    names = dict.fromkeys(("system", "videos", "observation_tag", "function_tag", "system_tag"))
    if llava:
        names |= {"images": "image", "messages": "conversations", "role_tag": "from", "content_tag": "value"}
        names |= {"user_tag": "human", "assistant_tag": "gpt"}
    else:
        names |= {"images": "images", "messages": "messages", "role_tag": "role", "content_tag": "content"}
        names |= {"user_tag": "user", "assistant_tag": "assistant"}
    basic = {"template": "qwen2vl", "dataset_dir": root, "dataset": ",".join(files), "cache_dir": cache}
    basic |= {"train_on_prompt": prompt, "mask_history": last, "max_samples": limit}
    media = {"model_name_or_path": f"./ckpt/Qwen2.5-VL-{made.size.upper()}-Instruct"}
    content = {
        "dataset_param": {
            "dataset_type": "huggingface",
            "preprocess_parameters": {**media, "image_max_pixels": high, "image_min_pixels": low},
            "basic_parameters": basic,
            "attr": names,
        },
        "dataloader_param": {"dataloader_mode": "sampler", "drop_last": True, "num_workers": 4},
    }
    if rng.random() < 0.5:
        content["dataset_param"]["basic_parameters"]["knob_of_tomorrow"] = [1, {"a": "ü"}]
        made.strange.add("dataset_param.basic_parameters.knob_of_tomorrow")
    _write_json(folder / f"data_{made.size}.json", content, rng)
    source = {"format": "llava" if llava else "sharegpt", "media_root": root.replace("./", "").replace("//", "/")}
    source["media_root"] = source["media_root"].rstrip("/")
    source |= {"max_samples": limit} if limit else {}
    made.expected |= {
        "data.sources": [{"path": path[2:], **source} for path in files],
        "data.image.min_pixels": low or 3136,
        "data.image.max_pixels": high,
        "data.loss_on": "last_answer" if last else "all" if prompt else "answers",
        "data.cache_dir": cache.removeprefix("./"),
        "weights.source": media["model_name_or_path"][2:],
    }


def _model(folder: Path, made: Generated, rng: random.Random) -> None:
    text, vision_ffn, _ = SIZES[made.size]
    pp = made.expected["layout.pp"]
    cuts = sorted(rng.sample(range(1, text[0]), pp - 1))
    layers = [high - low for low, high in zip([0, *cuts], [*cuts, text[0]], strict=True)]
    vision = [32, *[0] * (pp - 1)]
    freezes = (rng.choice((True, False, None)), rng.choice((True, False, None)))
    encoder: dict[str, Any] = {"num_layers": 32, "hidden_size": 1280, "ffn_hidden_size": vision_ffn}
    encoder |= {"num_attention_heads": 16, "pipeline_num_layers": rng.choice((vision, [vision]))}
    projector: dict[str, Any] = {"model_id": "lnmlp"}
    for table, value in ((encoder, freezes[0]), (projector, freezes[1])):
        if value is not None:
            table["freeze"] = value
    decoder = {**dict(zip(TEXT, text, strict=True)), "pipeline_num_layers": rng.choice((layers, [layers]))}
    towers = {"vision_encoder": encoder, "vision_projector": projector}
    content = {"model_id": "qwen2_5vl", "image_encoder": towers, "text_decoder": decoder}
    _write_json(folder / f"model_{made.size}.json", content, rng)
    # The reference's own defaults: an encoder without the key is frozen, a projector is not.
    frozen = [
        name for name, value in zip(("vision", "merger"), (freezes[0] is not False, freezes[1]), strict=True) if value
    ]
    made.expected |= {"model.name": f"qwen2.5-vl-{made.size}", "model.freeze": frozen}
    made.expected |= {"layout.vision_stages": vision, "layout.text_stages": layers}


def _script(folder: Path, made: Generated, variables: dict[str, str], rng: random.Random) -> None:
    plain = {**variables, "SAVE_PATH": f"./save\\ {made.size}/out"}
    plain |= {"MM_DATA": f"examples/data_{made.size}.json", "MM_MODEL": f"./examples/model_{made.size}.json"}
    lines, beside = ["#!/bin/bash"], list[str]()
    common = f"common_{made.size}.inc" if rng.random() < 0.4 else ""
    for number, (name, value) in enumerate(plain.items()):
        written = _assignment(name, value, rng)
        # The first ones may stand in a file that the script sources.
        (beside if common and number < 3 else lines).append(written)
        if common and number == 2:
            lines.append(rng.choice((f"source ./{common}", f". examples/{common}", f'source "$HERE/{common}"')))
    timeout, limit = rng.randrange(120, 7201), rng.randrange(1, 10_000_000)
    lines += [f"export HCCL_CONNECT_TIMEOUT={timeout}", f"ACLNN_CACHE_LIMIT={limit}; export ACLNN_CACHE_LIMIT"]
    lines += ["GLOG_v=3"]
    made.expected |= {"env.HCCL_CONNECT_TIMEOUT": timeout, "env.ACLNN_CACHE_LIMIT": limit}
    lines += _command(made, rng)
    end = rng.choice(("\n", "\n", "\r\n"))
    made.script = f"finetune_qwen2_5_vl_{made.size}.sh"
    (folder / made.script).write_bytes((end.join(lines) + end).encode())
    if common:
        (folder / common).write_text("\n".join(beside) + "\n")


def _assignment(name: str, value: str, rng: random.Random) -> str:
    """Write NAME=value in one of the ways that people write it."""
    ways = [f"{name}={value}", f"export {name}={value}", f"{name}=${{{name}_UNSET:-{value}}}"]
    if "\\" not in value:
        ways += [f'{name}="{value}"', f"{name}='{value}'" if "$" not in value else f'{name}="{value}"']
        ways += [f"{name}={value}  {rng.choice(COMMENTS)}", f'{rng.choice(COMMENTS)}\n  {name}="{value}"']
        ways += [f'{name}=""; {name}+="{value}"', f'declare {name}="{value}"']
    if value.isdecimal():
        number = int(value)
        first = rng.randrange(0, number + 1)
        ways += [
            f"{name}=$(({first} + {number - first}))",
            f"{name}=$(( 2*{number} / 2 ))",
            f"{name}={value[:1]}\\\n{value[1:]}",
        ]
        ways += [f'{name}={value[:1]}"{value[1:]}"']
    return rng.choice(ways)


def _command(made: Generated, rng: random.Random) -> list[str]:
    """Write the options into variables, arrays and the command itself, and the command that starts the program."""
    launcher = ("local_worker_num", "worker_num", "master_addr", "master_port")
    words = {name: _option(name, value, rng) for name, value in made.options.items()}
    rest = [name for name in words if name not in launcher and name != "save"]
    rng.shuffle(rest)
    cut = rng.randrange(1, len(rest))
    lines = [f'DISTRIBUTED_ARGS="{" ".join(words[name] for name in launcher)}"']
    made.comments_in_quotes = rng.random() < 0.3
    inside = f"  {rng.choice(('# 不保存优化器状态，若需保存请移除', '# later'))}" if made.comments_in_quotes else ""
    if rng.random() < 0.5 or made.comments_in_quotes:
        lines += ['GPT_ARGS="', *(f"    {words[name]} \\{inside}" for name in rest[:cut]), '"']
        passed = "$GPT_ARGS"
    else:
        lines += ["GPT_ARGS=(", *(f"  {words[name]} {rng.choice(COMMENTS)}" for name in rest[:cut]), ")"]
        passed = '"${GPT_ARGS[@]}"'
    lines += ["msrun $DISTRIBUTED_ARGS pretrain_vlm.py \\", f"    {passed} \\"]
    lines += [f"  {words[name]} \\" for name in rest[cut:]]
    return [*lines, '    --save "$SAVE_PATH" 2>&1 | tee "logs/x.log"', "chmod 440 logs/x.log"]


def _option(name: str, value: str | None, rng: random.Random) -> str:
    if value is None:
        return f"--{name}"
    return f"--{name}{rng.choice((' ', '='))}{value}"


def _write_json(path: Path, content: dict[str, Any], rng: random.Random) -> None:
    text = json.dumps(_shuffled(content, rng), indent=rng.choice((None, 2, 4)), ensure_ascii=rng.random() < 0.5)
    text = text.replace("\n", rng.choice(("\n", "\n", "\r\n")))
    path.write_bytes((rng.choice(("", "", "\ufeff")) + text).encode())


def _shuffled(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    rng.shuffle(keys)
    return {key: _shuffled(value[key], rng) for key in keys}
