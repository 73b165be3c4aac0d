"""Requests on their way to other processes: nothing is lost, and no mindspore is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from qvl_core.batch import Batch
from qvl_core.generate import GenerationOptions
from qvl_core.generate.packed_request import (
    as_bytes,
    byte_count,
    describe,
    from_bytes,
    pack_event,
    pack_request,
    unpack_event,
    unpack_request,
)
from qvl_core.generate.request import Event, Request


def request(features: np.ndarray | None = None) -> Request:
    patches = np.empty((0, 6), np.float32) if features is not None else np.full((4, 6), -0.0, np.float32)
    prompt = Batch(
        input_ids=np.arange(5, dtype=np.int32),
        position_ids=np.arange(15, dtype=np.int32).reshape(3, 5),
        sequence_lengths=(5,),
        labels=np.full(5, -100, np.int32),
        patches=patches,
        grids=np.array([[1, 2, 2]], np.int32),
        sample_ids=("row 1",),
        features=features,
    )
    options = GenerationOptions(
        max_new_tokens=7, do_sample=True, temperature=0.1, eos_token_id=(3, 4), seed=2**64 - 1, pad_token_id=None
    )
    return Request(prompt=prompt, options=options, request_id="a", row=3)


def travelled(one: Request) -> Request:
    fields, arrays = pack_request(one)
    described = json.loads(json.dumps(describe(arrays)))
    data = as_bytes(arrays)
    assert len(data) == byte_count(described)
    return unpack_request(json.loads(json.dumps(fields)), from_bytes(described, data))


def test_a_request_arrives_as_it_was() -> None:
    for one in (request(), request(np.arange(6, dtype=np.uint16).reshape(1, 6))):
        found = travelled(one)
        assert (found.options, found.request_id, found.row) == (one.options, one.request_id, one.row)
        for name in ("input_ids", "position_ids", "labels", "patches", "grids", "features"):
            before, after = getattr(one.prompt, name), getattr(found.prompt, name)
            if before is None:
                assert after is None
                continue
            assert (after.dtype, after.shape, after.tobytes()) == (before.dtype, before.shape, before.tobytes())
        assert (found.prompt.sequence_lengths, found.prompt.sample_ids) == ((5,), ("row 1",))


def test_one_stop_token_stays_one() -> None:
    one = request()
    single = Request(prompt=one.prompt, options=GenerationOptions(eos_token_id=9), request_id="b")
    assert travelled(single).options.eos_token_id == 9


def test_events_arrive_as_they_were() -> None:
    for event in (
        Event(request_id="a", token=5, text_index=0),
        Event(request_id="b", token=-1, text_index=4, finished="cancelled"),
    ):
        assert unpack_event(json.loads(json.dumps(pack_event(event)))) == event


def test_no_mindspore_is_needed() -> None:
    code = "import sys, qvl_core.generate.packed_request; print('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
