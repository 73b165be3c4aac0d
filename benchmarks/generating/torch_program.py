"""The other side: HF `generate` on torch, one thread, scaled dot-product attention, its usual cache. On one core."""

from __future__ import annotations

import sys
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]

from serve import Order, serve  # noqa: E402


def main() -> None:
    """Build the model and answer."""
    order = Order.from_arguments()
    import torch

    operators = _declare_missing_operators()
    import transformers
    from training.torch_program import load_model

    torch.set_num_threads(1)
    model, _ = load_model(order.folder)
    model.eval()
    # Made when first asked for: the pictures of the other batches shall not count in this one's memory.
    making = lru_cache(lambda batch: Answering(model, batch))
    actions = {f"answer_{batch}": partial(lambda size: making(size).answer(), batch) for batch in (1, 4, 8)}
    serve({"torch": torch.__version__, "transformers": transformers.__version__}, actions)
    del operators


def _declare_missing_operators() -> Any:
    """Let transformers import torchvision beside a torch for CPU only. Keep what is given back."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "parity"))
    import torchvision_ops

    return torchvision_ops.declare_missing_operators()


class Answering:
    """`generate` for one batch, again and again."""

    def __init__(self, model: Any, batch: int) -> None:
        import numpy as np
        import torch

        from generating.prompts import make_rows

        self._model = model
        rows = make_rows(batch)
        arrays = {
            name: np.concatenate([getattr(row, name) for row in rows])
            for name in ("input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw")
        }
        arrays["attention_mask"] = np.ones_like(arrays["input_ids"])
        self._inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def answer(self) -> dict[str, Any]:
        """Answer all rows; give the tokens and when they came."""
        import torch

        from generating.prompts import NEW_TOKENS

        self._model.model.rope_deltas = None
        watch = _Watch()
        with torch.no_grad():
            ids = self._model.generate(
                **self._inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, streamer=watch
            )
        prompt = self._inputs["input_ids"].shape[1]
        times = watch.times
        # The prompt comes first.
        return {
            "tokens": ids[:, prompt:].tolist(),
            "first_s": times[1] - watch.started,
            "decode_s": times[-1] - times[1],
        }


class _Watch:
    """A streamer that notes when tokens come."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing."""


if __name__ == "__main__":
    main()
