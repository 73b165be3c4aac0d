"""How to choose tokens and when to stop. Names, meanings and neutral values are those of HF's `GenerationConfig`."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from qvl_core.errors import InputError, Problem
from qvl_core.json_file import read_json_object

GENERATION_CONFIG = "generation_config.json"

# Keys of the file that do not change which token is chosen.
_WITHOUT_EFFECT = frozenset({"bos_token_id", "transformers_version", "_from_model_config", "use_cache"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of one call. Greedy unless `do_sample` is true and the temperature above 0."""

    max_new_tokens: int = 256
    """Most tokens to add to a row, from 1."""
    min_new_tokens: int = 0
    """No stop token before so many tokens are there, from 0."""
    do_sample: bool = False
    temperature: float = 1.0
    """Divides the scores, from 0; 0 is greedy."""
    top_k: int = 0
    """Keep the k best tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the best tokens that together reach this probability, 0 to 1; 1 keeps all, 0 the best one."""
    repetition_penalty: float = 1.0
    """Makes tokens already in the row less likely, above 0; 1 changes nothing. Applies to greedy choice too."""
    eos_token_id: int | tuple[int, ...] = ()
    """Stop tokens; the stop token itself is part of the result."""
    pad_token_id: int | None = None
    """Fills rows that stopped; the first stop token where left out, 0 where there is none."""
    seed: int = 0
    """Of the random numbers, from 0. Row b draws from stream (seed, b), whatever the other rows do."""

    def __post_init__(self) -> None:
        problems = tuple(_wrong_types(self)) or tuple(_problems(self))
        if problems:
            raise InputError(problems)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Give the stop tokens as a tuple."""
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @property
    def pad_id(self) -> int:
        """Give the id that fills rows that stopped."""
        return self.pad_token_id if self.pad_token_id is not None else next(iter(self.stop_ids), 0)

    @property
    def samples(self) -> bool:
        """Tell whether a random number decides."""
        return self.do_sample and self.temperature > 0.0


def changed_options(defaults: GenerationOptions, changes: Mapping[str, Any]) -> GenerationOptions:
    """Give `defaults` with some fields changed; None switches an option off, as in HF `generate`.

    Raises InputError for an unknown name or a value out of range.
    """
    names = [field.name for field in dataclasses.fields(GenerationOptions)]
    unknown = [name for name in changes if name not in names]
    if unknown:
        raise InputError(
            [
                Problem(where="generation options", key=name, message="is not an option", fix=f"use {', '.join(names)}")
                for name in unknown
            ]
        )
    return dataclasses.replace(defaults, **_read_values(changes))


def read_generation_config(folder: Path) -> GenerationOptions:
    """Give the options of a checkpoint's generation_config.json; the plain defaults where it has none.

    What this engine does not know is named in a warning. Raises WeightsError if the file is not a JSON object, and
    InputError if a value is out of range.
    """
    path = folder / GENERATION_CONFIG
    if not path.exists():
        return GenerationOptions()
    config = {key: value for key, value in read_json_object(path).items() if value is not None}
    names = {field.name for field in dataclasses.fields(GenerationOptions)}
    # transformers 5 writes switches that are off, such as output_attentions: nothing is left out with them.
    ignored = sorted(key for key in config.keys() - names - _WITHOUT_EFFECT if config[key] is not False)
    if ignored:
        logger.warning("%s: not supported and left out: %s", path, ", ".join(ignored))
    return GenerationOptions(**_read_values({key: value for key, value in config.items() if key in names}))


def _read_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give plain numbers and tuples for numpy's numbers, lists and arrays, and the neutral value for None."""
    neutral = {field.name: field.default for field in dataclasses.fields(GenerationOptions)}
    read = {key: neutral[key] if value is None else value for key, value in values.items()}
    read = {key: value.item() if isinstance(value, np.generic) else value for key, value in read.items()}
    stops = read.get("eos_token_id")
    if isinstance(stops, Sequence | np.ndarray):
        read["eos_token_id"] = tuple(np.ravel(stops).tolist())
    return read


def _wrong_types(options: GenerationOptions) -> Iterator[Problem]:
    # "no" would be true and 1.5 a size of an array.
    kinds: tuple[tuple[str, type, Iterable[object]], ...] = (
        ("a whole number", Integral, ("max_new_tokens", "min_new_tokens", "top_k", "seed")),
        ("a number", Real, ("temperature", "top_p", "repetition_penalty")),
    )
    for wanted, kind, keys in kinds:
        for key in keys:
            value = getattr(options, str(key))
            if not isinstance(value, kind) or isinstance(value, bool):
                yield _wrong_type(str(key), value, wanted)
    if not isinstance(options.do_sample, bool | np.bool_):
        yield _wrong_type("do_sample", options.do_sample, "true or false")
    stops = options.eos_token_id if isinstance(options.eos_token_id, list | tuple) else (options.eos_token_id,)
    if not all(isinstance(stop, Integral) and not isinstance(stop, bool) for stop in stops):
        yield _wrong_type("eos_token_id", options.eos_token_id, "a token id or several")
    pad = options.pad_token_id
    if pad is not None and (not isinstance(pad, Integral) or isinstance(pad, bool)):
        yield _wrong_type("pad_token_id", pad, "a token id")


def _wrong_type(key: str, value: object, wanted: str) -> Problem:
    return Problem(where="generation options", key=key, message=f"is {value!r}; it has to be {wanted}")


def _problems(options: GenerationOptions) -> Iterator[Problem]:
    checks = (
        ("max_new_tokens", options.max_new_tokens, options.max_new_tokens >= 1, "at least 1"),
        ("min_new_tokens", options.min_new_tokens, options.min_new_tokens >= 0, "0 or more"),
        ("temperature", options.temperature, 0.0 <= options.temperature < math.inf, "0 or more"),
        ("top_k", options.top_k, options.top_k >= 0, "0 or more"),
        ("top_p", options.top_p, 0.0 <= options.top_p <= 1.0, "from 0 to 1"),
        ("repetition_penalty", options.repetition_penalty, 0.0 < options.repetition_penalty < math.inf, "above 0"),
        ("seed", options.seed, 0 <= options.seed < 2**64, "from 0 to 2**64 - 1"),
    )
    for key, value, good, wanted in checks:
        if not good:
            yield Problem(where="generation options", key=key, message=f"is {value}; it has to be {wanted}")
