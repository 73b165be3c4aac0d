"""One measurement in a process of its own: how much memory one micro batch's forward and backward take on CPU.

    python benchmarks/planning/memory_program.py '{"spec": {...}, "sequences": 2, "tokens": 256, ...}'

Prints one line of JSON: bytes above what was resident before, at most, and the plan's bytes for the same.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure what the argument describes."""
    case = json.loads(sys.argv[1])
    from qvl_core import device

    device.prepare("cpu")
    device.require_mindspore()
    print(json.dumps(measured(case)))


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Run one micro batch, twice: a tiny one first, so that what stays for ever is there already."""
    from qvl_core.layout import Layout
    from qvl_core.model import Qwen25VL
    from qvl_core.model.initialize import random_weights
    from qvl_core.parallel.adapter_cells import insert_adapters
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.single import SingleWorld

    spec = spec_of(case)
    before_model = resident()
    model = Qwen25VL.from_spec(spec, random_weights(spec, 0))
    world = SingleWorld(Layout.single(spec))
    if "lora" in case:
        insert_adapters(model, lora_of(case), world.tensor, seed=0)
    model.freeze(case.get("freeze", ()))
    forget_peak()
    built = resident()
    pipeline = Pipeline(model, world, recompute=case.get("recompute", "none"))
    one_step(pipeline, batch_of(spec, sequences=1, tokens=24, patches_side=2))
    forget_peak()
    one_step(
        pipeline,
        batch_of(spec, sequences=case["sequences"], tokens=case["tokens"], patches_side=case["patches_side"]),
    )
    return {"base": before_model, "weights": built - before_model, "step": peak() - built}


def one_step(pipeline: Any, batch: Any) -> None:
    """Take the gradients of one micro batch and drop them."""
    import numpy as np

    loss, gradients = pipeline.gradients([batch], [np.full(len(batch.loss_rows), 1.0, np.float32)])
    assert np.isfinite(loss)
    for gradient in gradients:
        gradient.asnumpy()


def lora_of(case: dict[str, Any]) -> Any:
    """Give the adapters of a case: of this rank on all linear layers of the text; None without."""
    from qvl_core.lora_table import TARGETS, Lora

    if "lora" not in case:
        return None
    return Lora(rank=case["lora"], alpha=16, dropout=0.0, components=("text",), targets=TARGETS["text"])


def spec_of(case: dict[str, Any]) -> Any:
    """Give the spec: one that is shipped, or one of these widths."""
    from qvl_core.specs.load import load_spec
    from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

    if "name" in case:
        return load_spec(case["name"])
    return ModelSpec(
        name="mid-size",
        vision=VisionSpec(
            **{**case["vision"], "full_attention_blocks": tuple(case["vision"]["full_attention_blocks"])}
        ),
        text=TextSpec(**{**case["text"], "mrope_section": tuple(case["text"]["mrope_section"])}),
        tokens=TokenIds(vision_start=90, vision_end=91, image=92, video=93),
    )


def batch_of(spec: Any, *, sequences: int, tokens: int, patches_side: int) -> Any:
    """Give a micro batch of equal sequences, each with a square image of so many patches a side (0: none)."""
    import numpy as np
    from qvl_core.batch import Batch

    merge = spec.vision.spatial_merge_size
    units = (patches_side // merge) ** 2
    assert units + 2 < tokens
    image = [spec.tokens.vision_start, *[spec.tokens.image] * units, spec.tokens.vision_end] if units else []
    ids = [*image, *[1 + i % 80 for i in range(tokens - len(image))]]
    labels = np.full(tokens, -100)
    labels[len(image) : -1] = 5
    count = sequences * patches_side**2 if units else 0
    return Batch(
        input_ids=np.array(ids * sequences, np.int32),
        position_ids=np.tile(np.arange(tokens, dtype=np.int32), (3, sequences)),
        sequence_lengths=(tokens,) * sequences,
        labels=np.tile(labels, sequences).astype(np.int32),
        patches=np.zeros((count, spec.vision.patch_dim), np.float32),
        grids=np.array([[1, patches_side, patches_side]] * (sequences if units else 0), np.int32).reshape(-1, 3),
    )


def resident() -> int:
    """Give the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def peak() -> int:
    """Give the most that was resident since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def forget_peak() -> None:
    """Give freed pages back and begin a new peak."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    main()
