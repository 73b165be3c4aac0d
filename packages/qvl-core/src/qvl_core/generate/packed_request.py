"""A request as small values and arrays, for its way to other processes, and back. Needs no mindspore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.generate.options import GenerationOptions
from qvl_core.generate.request import Event, Request

_ARRAYS = ("input_ids", "position_ids", "labels", "patches", "grids")


def pack_request(request: Request) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Give what JSON can hold of a request, and its arrays by name."""
    prompt = request.prompt
    arrays = {name: getattr(prompt, name) for name in _ARRAYS}
    if prompt.features is not None:
        arrays["features"] = prompt.features
    fields = {
        "request_id": request.request_id,
        "row": request.row,
        "options": asdict(request.options),
        "sequence_lengths": list(prompt.sequence_lengths),
        "sample_ids": list(prompt.sample_ids),
    }
    return fields, arrays


def unpack_request(fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Request:
    """Give the request that was packed."""
    options = dict(fields["options"])
    if isinstance(options["eos_token_id"], list):
        options["eos_token_id"] = tuple(options["eos_token_id"])
    prompt = Batch(
        **{name: arrays[name] for name in _ARRAYS},
        features=arrays.get("features"),
        sequence_lengths=tuple(fields["sequence_lengths"]),
        sample_ids=tuple(fields["sample_ids"]),
    )
    return Request(
        prompt=prompt, options=GenerationOptions(**options), request_id=fields["request_id"], row=fields["row"]
    )


def pack_event(event: Event) -> list[Any]:
    """Give an event as JSON can hold it."""
    return [event.request_id, event.token, event.text_index, event.finished]


def unpack_event(packed: list[Any]) -> Event:
    """Give the event that was packed."""
    request_id, token, text_index, finished = packed
    return Event(request_id=request_id, token=token, text_index=text_index, finished=finished)


def describe(arrays: Mapping[str, NDArray[Any]]) -> list[list[Any]]:
    """Give name, dtype and shape of each array, in their order."""
    return [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]


def as_bytes(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Give the bytes of all arrays, one behind the other."""
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def from_bytes(described: list[list[Any]], data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Give the arrays that were described and joined."""
    found, start = {}, 0
    for name, dtype, shape in described:
        stop = start + byte_count([[name, dtype, shape]])
        # A copy: a slice may begin where the dtype must not.
        found[name] = data[start:stop].copy().view(dtype).reshape(shape)
        start = stop
    return found


def byte_count(described: list[list[Any]]) -> int:
    """Count the bytes of described arrays."""
    return sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for _, dtype, shape in described)
