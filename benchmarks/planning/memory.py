"""Measure what a micro batch takes on CPU, in a process for each case, beside what the plan says of it.

    python benchmarks/planning/memory.py [--quick | --write]

`step` is the most that was resident in forward and backward of one micro batch above what the built model took; the
plan's number is the sum of activations, logits and a micro batch's gradients. Bytes are in MB. `error` is the plan's
deviation from the measured value. `--write` keeps what was measured in measured.json, for the pages. Sizes of memory do
not depend on the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qvl_core.layout import Layout
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.planner.memory import stage_memory
from qvl_core.planner.workload import Workload

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "measured.json"
MID: dict[str, Any] = {
    "vision": {
        "depth": 4, "hidden_size": 256, "num_heads": 8, "intermediate_size": 640, "out_hidden_size": 512,
        "full_attention_blocks": [1, 3],
    },
    "text": {
        "num_layers": 8, "hidden_size": 512, "intermediate_size": 1408, "num_heads": 8, "num_kv_heads": 4,
        "head_dim": 64, "vocab_size": 4096, "tie_word_embeddings": False, "mrope_section": [8, 12, 12],
    },
}  # fmt: skip
TINY: dict[str, Any] = {"name": "qwen2.5-vl-tiny"}
# Other proportions: more heads, one of keys to each, a wide FFN, many tokens in the vocabulary.
WIDE: dict[str, Any] = {
    "vision": {
        "depth": 6, "hidden_size": 192, "num_heads": 12, "intermediate_size": 768, "out_hidden_size": 384,
        "full_attention_blocks": [5],
    },
    "text": {
        "num_layers": 5, "hidden_size": 384, "intermediate_size": 1536, "num_heads": 12, "num_kv_heads": 12,
        "head_dim": 32, "vocab_size": 24000, "tie_word_embeddings": True, "mrope_section": [4, 6, 6],
    },
}  # fmt: skip
# Drawn up when the account was finished, and measured once.
LONG: dict[str, Any] = {
    "vision": {
        "depth": 3, "hidden_size": 128, "num_heads": 4, "intermediate_size": 336, "out_hidden_size": 256,
        "full_attention_blocks": [],
    },
    "text": {
        "num_layers": 10, "hidden_size": 256, "intermediate_size": 704, "num_heads": 8, "num_kv_heads": 2,
        "head_dim": 32, "vocab_size": 8000, "tie_word_embeddings": True, "mrope_section": [4, 6, 6],
    },
}  # fmt: skip
# Sequences of so many tokens, each with an image of so many patches a side.
CASES: dict[str, dict[str, Any]] = {
    "tiny, digits": {**TINY, "sequences": 64, "tokens": 40, "patches_side": 8},
    "tiny, longer": {**TINY, "sequences": 32, "tokens": 400, "patches_side": 16},
    "mid, text, short": {**MID, "sequences": 8, "tokens": 128, "patches_side": 0},
    "mid, text": {**MID, "sequences": 4, "tokens": 512, "patches_side": 0},
    "mid, images": {**MID, "sequences": 4, "tokens": 384, "patches_side": 32},
    "mid, images, recompute full": {**MID, "sequences": 4, "tokens": 384, "patches_side": 32, "recompute": "full"},
    "mid, images, vision frozen": {
        **MID, "sequences": 4, "tokens": 384, "patches_side": 32, "freeze": ["vision", "merger"],
    },
    "mid, images, adapters of rank 8": {**MID, "sequences": 4, "tokens": 384, "patches_side": 32, "lora": 8},
    "wide, images": {**WIDE, "sequences": 6, "tokens": 256, "patches_side": 20},
    "wide, images, recompute text": {
        **WIDE, "sequences": 6, "tokens": 256, "patches_side": 20, "recompute": ["text"],
    },
    "wide, frozen text": {
        **WIDE, "sequences": 8, "tokens": 200, "patches_side": 16, "freeze": ["text"],
    },
    "long, text, recompute full": {**LONG, "sequences": 4, "tokens": 512, "patches_side": 0, "recompute": "full"},
    "long, images": {**LONG, "sequences": 3, "tokens": 700, "patches_side": 24},
    "long, images, recompute full": {
        **LONG, "sequences": 3, "tokens": 700, "patches_side": 24, "recompute": "full",
    },
}  # fmt: skip


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first two cases")
    parser.add_argument("--write", action="store_true", help="measure all cases and keep what was measured")
    given = parser.parse_known_args()[0]
    figures = measure(list(CASES)[: 2 if given.quick and not given.write else None])
    print(json.dumps(figures, indent=2))
    if given.write:
        kept = {name: {"measured_mb": found["measured_mb"]} for name, found in figures.items()}
        about = {"mindspore": version("mindspore"), "cases": kept}
        MEASURED.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def measure(names: list[str]) -> dict[str, dict[str, Any]]:
    """Give the figures of cases by name."""
    figures = {}
    for name in names:
        case = CASES[name]
        done = subprocess.run(
            [sys.executable, str(HERE / "memory_program.py"), json.dumps(case)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        planned = planned_bytes(case)
        figures[name] = {
            "measured_mb": round(found["step"] / 1e6, 1),
            "planned_mb": round(planned / 1e6, 1),
            "error": round(planned / found["step"] - 1, 3),
            "base_mb": round(found["base"] / 1e6, 1),
            "weights_mb": round(found["weights"] / 1e6, 1),
        }
    return figures


def planned_bytes(case: dict[str, Any]) -> float:
    """Give the plan's bytes for a case."""
    # That program runs by itself, outside of any package.
    sys.path.insert(0, str(HERE))
    from memory_program import lora_of, spec_of

    spec = spec_of(case)
    vision = spec.vision
    media = (case["patches_side"] // vision.spatial_merge_size) ** 2
    load = Workload(
        tokens=case["tokens"], media_tokens=media, labels=case["tokens"] - media, longest=case["tokens"],
        longest_media=media, longest_labels=case["tokens"] - media, source="the case", measured=True,
    )  # fmt: skip
    job = Job(
        spec=spec, device=device_facts("cpu"), workload=load, dtype="float32", freeze=tuple(case.get("freeze", ())),
        lora=lora_of(case), global_batch=case["sequences"], micro_batch=case["sequences"], kernels="reference",
    )  # fmt: skip
    stated = case.get("recompute", "none")
    recompute = frozenset(COMPONENTS if stated == "full" else () if stated == "none" else stated)
    (memory,) = stage_memory(job, Layout.single(spec), recompute=recompute)
    return memory.vision + memory.merger + memory.text + memory.logits + memory.in_flight + memory.new_gradients


if __name__ == "__main__":
    main()
