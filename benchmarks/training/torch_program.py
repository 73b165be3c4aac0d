"""The other side: HF transformers on torch, as a careful user runs it. Started by sides.py, on one core.

Scaled dot-product attention, one thread, fused AdamW with the decay groups of the HF Trainer, gradients set to None.
"""

from __future__ import annotations

from serve import Order, serve

LEARNING_RATE = 1e-4


def main() -> None:
    """Build the model and answer."""
    order = Order.from_arguments()
    import numpy as np
    import torch
    import transformers
    from hf_config import hf_config, hf_name
    from qvl_core.params import parameter_table
    from shape import SMALL, make_sample, read_tensors, trained_names, write_tensors
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.set_num_threads(1)
    spec = SMALL
    model = Qwen2_5_VLForConditionalGeneration(hf_config(spec)).train()
    model.set_attn_implementation("sdpa")
    weights = {
        hf_name(name): torch.from_numpy(array.copy())
        for name, array in read_tensors(spec, order.folder / "weights.f32")
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    del weights
    model.tie_weights()
    held = dict(model.named_parameters())
    trained = {name: held[hf_name(name)] for name in trained_names(spec, order.frozen)}
    for row in parameter_table(spec):
        held[hf_name(row.name)].requires_grad_(row.name in trained)
    sample = make_sample(spec, "all" if order.labels == "all" else "text")
    inputs = {
        "input_ids": sample.input_ids,
        "attention_mask": np.ones_like(sample.input_ids),
        "mm_token_type_ids": sample.mm_token_type_ids,
        "pixel_values": sample.pixel_values,
        "image_grid_thw": sample.image_grid_thw,
        "labels": sample.labels,
    }
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    groups = [
        {"params": [value for value in trained.values() if value.ndim > 1], "weight_decay": 0.01},
        {"params": [value for value in trained.values() if value.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def forward() -> float:
        with torch.no_grad():
            return model(**tensors, use_cache=False).loss.item()

    def forward_backward() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(**tensors, use_cache=False).loss
        loss.backward()
        return loss.item()

    def step() -> float:
        loss = forward_backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        return loss

    def save_gradients() -> None:
        forward_backward()
        found = {name: value.grad.numpy() for name, value in trained.items()}
        write_tensors(spec, order.folder / "theirs.f32", found)

    actions = {
        "forward": forward, "forward_backward": forward_backward, "step": step, "save_gradients": save_gradients,
    }  # fmt: skip
    serve({"torch": torch.__version__, "transformers": transformers.__version__}, actions)


if __name__ == "__main__":
    main()
