"""Our side: the scheduler that `qvl infer` and `qvl serve` run on. Started by generation.py, on one core."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]

from serve import Order, serve  # noqa: E402

if TYPE_CHECKING:
    from qvl_core.generate.request import Request
    from qvl_core.model import Qwen25VL

MIXED = 24


def main() -> None:
    """Build the model and answer."""
    order = Order.from_arguments()
    from qvl_core.device import prepare, require_mindspore

    prepare("cpu")
    mindspore = require_mindspore()
    import numpy as np
    from qvl_core.model import Qwen25VL
    from training.shape import SMALL, read_tensors

    model = Qwen25VL.from_spec(SMALL, read_tensors(SMALL, order.folder / "weights.f32"))
    latest = Latest()
    actions = {f"answer_{batch}": partial(latest.answer, Answering, model, batch) for batch in (1, 4, 8)}
    mixes = {f"mixed_{slots}": Mix(model, slots).answer for slots in (1, 8)}
    serve({"mindspore": mindspore.__version__, "numpy": np.__version__}, {**actions, **mixes})


class Latest:
    """Keeps what answered last, so that one scheduler and its memory are there at a time."""

    def __init__(self) -> None:
        self._held: dict[int, Answering] = {}

    def answer(self, make: type[Answering], model: Qwen25VL, batch: int) -> dict[str, Any]:
        """Answer with the one for this batch size."""
        if batch not in self._held:
            self._held = {}
            self._held = {batch: make(model, batch)}
        return self._held[batch].answer()


class Answering:
    """One scheduler, asked again and again."""

    def __init__(self, model: Qwen25VL, batch: int) -> None:
        from qvl_core.answer_sizes import blocks
        from qvl_core.generate.engine import Engine
        from qvl_core.generate.scheduler import Scheduler

        from generating.prompts import NEW_TOKENS, make_rows

        rows = make_rows(batch)
        room = batch * blocks(rows[0].input_ids.shape[1] + NEW_TOKENS)
        self._text = model.spec.text
        self._engine = Engine(model, batch, room)
        self._scheduler = Scheduler(model, slots=batch, max_tokens=room, engine=self._engine)
        self._requests = [picture_request(model, row, NEW_TOKENS, str(i)) for i, row in enumerate(rows)]

    def answer(self) -> dict[str, Any]:
        """Answer all rows; give the tokens and when they came."""
        found: list[list[int]] = [[] for _ in self._requests]
        started = time.perf_counter()
        for request in self._requests:
            self._scheduler.submit(request)
        times = []
        while not self._scheduler.is_idle:
            for event in self._scheduler.step():
                found[int(event.request_id)].append(event.token)
            times.append(time.perf_counter() - started)
        cache, text = self._engine.cache, self._text
        token_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * 4
        return {
            "tokens": found,
            "first_s": times[0],
            "decode_s": times[-1] - times[0],
            "cache_bytes": cache.held_bytes,
            "formula_bytes": token_bytes * cache.rows * cache.capacity,
            "needed_bytes": token_bytes * sum(request.prompt.tokens + len(found[0]) - 1 for request in self._requests),
        }


class Mix:
    """Requests of mixed lengths that come all at once, answered with so many slots."""

    def __init__(self, model: Qwen25VL, slots: int) -> None:
        from qvl_core.generate.scheduler import Scheduler

        self._model = model
        self._scheduler = Scheduler(model, slots=slots, max_tokens=slots * 448)

    def answer(self) -> dict[str, Any]:
        """Give the tokens of every request."""
        from qvl_core.generate.options import GenerationOptions
        from qvl_core.generate.request import Request
        from qvl_core.model import flatten_prompt

        from generating.prompts import make_mix, make_rows, text_ids

        pictures = make_rows(MIXED)
        found: dict[str, list[int]] = {str(number): [] for number in range(MIXED)}
        for number, one in enumerate(make_mix(MIXED)):
            if one.has_picture:
                self._scheduler.submit(picture_request(self._model, pictures[number], one.new, str(number)))
                continue
            prompt = flatten_prompt(self._model.spec, text_ids(one.tokens, number)).batch
            options = GenerationOptions(max_new_tokens=one.new)
            self._scheduler.submit(Request(prompt=prompt, options=options, request_id=str(number)))
        while not self._scheduler.is_idle:
            for event in self._scheduler.step():
                found[event.request_id].append(event.token)
        return {"tokens": list(found.values())}


def picture_request(model: Qwen25VL, row: Any, new: int, name: str) -> Request:
    """Give the request of a row."""
    from qvl_core.generate.options import GenerationOptions
    from qvl_core.generate.request import Request
    from qvl_core.model import flatten_prompt

    prompt = flatten_prompt(
        model.spec, row.input_ids, pixel_values=row.pixel_values, image_grid_thw=row.image_grid_thw
    ).batch
    return Request(prompt=prompt, options=GenerationOptions(max_new_tokens=new), request_id=name)


if __name__ == "__main__":
    main()
