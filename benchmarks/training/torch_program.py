"""The other side: HF transformers on torch, as a careful user runs it. Started by sides.py, on one core.

Scaled dot-product attention, one thread, fused AdamW with the decay groups of the HF Trainer, gradients set to None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve import Order, serve

if TYPE_CHECKING:
    import torch

LEARNING_RATE = 1e-4


def main() -> None:
    """Build the model and answer."""
    order = Order.from_arguments()
    import torch
    import transformers
    from shape import SMALL, trained_names, write_tensors

    torch.set_num_threads(1)
    model, held = load_model(order.folder)
    trained = {name: held[name] for name in trained_names(SMALL, order.frozen)}
    for name, value in held.items():
        value.requires_grad_(name in trained)
    actions = make_actions(model, trained, make_inputs(order.labels))

    def save_gradients() -> None:
        actions["forward_backward"]()
        found = {name: value.grad.numpy() for name, value in trained.items()}
        write_tensors(SMALL, order.folder / "theirs.f32", found)

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    serve(versions, {**actions, "save_gradients": save_gradients})


def load_model(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Give HF's model with the weights in the folder, and its parameters by published names."""
    import torch
    from qvl_core.params import parameter_table
    from shape import SMALL, read_tensors
    from transformers import Qwen2_5_VLForConditionalGeneration

    # The oracle of the parity tests says what a spec is to HF.
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "parity"))
    from hf_config import hf_config, hf_name

    model = Qwen2_5_VLForConditionalGeneration(hf_config(SMALL)).train()
    model.set_attn_implementation("sdpa")
    read = read_tensors(SMALL, folder / "weights.f32")
    weights = {hf_name(name): torch.from_numpy(array.copy()) for name, array in read}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    held = dict(model.named_parameters())
    return model, {row.name: held[hf_name(row.name)] for row in parameter_table(SMALL)}


def make_inputs(labels: str) -> dict[str, torch.Tensor]:
    """Give the sample under HF's argument names."""
    import numpy as np
    import torch
    from shape import SMALL, make_sample

    sample = make_sample(SMALL, "all" if labels == "all" else "text")
    inputs = {
        "input_ids": sample.input_ids,
        "attention_mask": np.ones_like(sample.input_ids),
        "mm_token_type_ids": sample.mm_token_type_ids,
        "pixel_values": sample.pixel_values,
        "image_grid_thw": sample.image_grid_thw,
        "labels": sample.labels,
    }
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def make_actions(
    model: Any, trained: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]
) -> dict[str, Callable[[], float]]:
    """Give what is measured: each runs once and gives its loss."""
    import torch

    groups = [
        {"params": [value for value in trained.values() if value.ndim > 1], "weight_decay": 0.01},
        {"params": [value for value in trained.values() if value.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def forward() -> float:
        with torch.no_grad():
            return model(**inputs, use_cache=False).loss.item()

    def forward_backward() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        return loss.item()

    def step() -> float:
        loss = forward_backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        return loss

    return {"forward": forward, "forward_backward": forward_backward, "step": step}


if __name__ == "__main__":
    main()
