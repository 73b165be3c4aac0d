"""Read `adapter_config.json` of a PEFT LoRA adapter; refuse what plain `W + scale * B @ A` would not merge exactly.

Settings are those of PEFT's `LoraConfig` (checked against peft 0.21.2). A setting that is not known here may change
the result, so it is refused unless it is empty.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.json_file import JsonError, parse_json
from qvl_core.weights.safetensors_header import file_stamp

CONFIG_FILE = "adapter_config.json"
MERGE_WITH_PEFT = (
    "merge it where you have torch and peft:\n"
    "PeftModel.from_pretrained(base, adapter_dir).merge_and_unload().save_pretrained(out)"
)

_MOST_BYTES = 4 * 1024**2
_MOST_NAMES = 20_000
_LONGEST_NAME = 512
_LARGEST_RANK = 65_536
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
# Say nothing about the merged weights: where the adapter came from, how it was trained or initialised.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode",
        "lora_dropout", "runtime_config", "megatron_core", "qalora_group_size",
        "loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying",
    }
)  # fmt: skip
_READ = frozenset(
    {
        "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform",
        "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save", "init_lora_weights", "bias",
    }
)  # fmt: skip
_REFUSED = {
    "use_dora": "is DoRA: it rescales every column of the weights by a trained magnitude",
    "lora_bias": "gives lora_B a bias, which would have to be merged into the layers' biases",
    "fan_in_fan_out": "is for layers that store their weight transposed; this model has none",
    "layer_replication": "builds a model of other layers than the base has",
    "trainable_token_indices": "trains single rows of the embedding",
    "target_parameters": "adapts bare parameters instead of layers",
    "alora_invocation_tokens": "is Activated LoRA: it acts on some tokens only and cannot be merged at all",
    "use_qalora": "is QALoRA, for quantised base weights",
    "use_bdlora": "is block-diagonal LoRA",
    "arrow_config": "is Arrow: it routes between several adapters",
    "kasa_config": "is KaSA: it changes the base weights and has a third factor",
    "monteclora_config": "is MonteCLoRA: its weights are sampled",
    "velora_config": "is VeLoRA",
    "megatron_config": "is for Megatron's parallel layers",
}
# Whatever else an initialisation is, these leave the base weights as they are.
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What decides the merge. `target_modules` and `exclude_modules` are names, or one regular expression as text.

    `layers` is None where the adapter is not limited to some layers. Patterns are in the order of the file, which is
    the order in which PEFT tries them.
    """

    rank: int
    alpha: float
    rslora: bool
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...] | str
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A read configuration, the SHA-256 of the file's bytes and the file's stamp."""

    config: AdapterConfig
    digest: str
    stamp: tuple[int, int, int]


def read_adapter_config(path: Path) -> ConfigFile:
    """Read and check the file. Raises WeightsError with everything that is wrong or cannot be merged."""
    with open_regular_file(path, fix="give the folder that PEFT's save_pretrained wrote") as file:
        stamp = file_stamp(os.fstat(file.fileno()))
        data = file.read(_MOST_BYTES + 1)
    where = printable(str(path))
    try:
        if len(data) > _MOST_BYTES:
            raise JsonError(f"is larger than the {_MOST_BYTES:,} bytes that are read at most")
        fields = parse_json(data)
        if not isinstance(fields, dict):
            raise JsonError(f"holds a JSON {type(fields).__name__}, not an object")
    except JsonError as error:
        raise WeightsError(Problem(where=where, message=str(error), fix="copy the adapter again")) from None
    reader = _Reader(where, fields)
    config = reader.config()
    if reader.problems:
        raise WeightsError(reader.problems[:10])
    return ConfigFile(config=config, digest=hashlib.sha256(data).hexdigest(), stamp=stamp)


class _Reader:
    """Takes settings out of the file's object and collects what is wrong with them."""

    def __init__(self, where: str, fields: dict[str, Any]) -> None:
        self.problems: list[Problem] = []
        self._where = where
        self._fields = fields

    def config(self) -> AdapterConfig:
        kind = self._fields.get("peft_type")
        if kind != "LORA":
            self._wrong("peft_type", f"is {_shown(kind)}; only LORA adapters are merged", MERGE_WITH_PEFT)
        else:
            self._refuse_variants()
        return AdapterConfig(
            rank=self._rank("r", self._fields.get("r")),
            alpha=self._number("lora_alpha", self._fields.get("lora_alpha")),
            rslora=self._flag("use_rslora"),
            target_modules=self._targets(),
            exclude_modules=self._names_or_pattern("exclude_modules"),
            layers=self._layers(),
            layers_pattern=self._plain_names("layers_pattern", one=True),
            rank_pattern={key: self._rank(f"rank_pattern.{key}", v) for key, v in self._map("rank_pattern")},
            alpha_pattern={key: self._number(f"alpha_pattern.{key}", v) for key, v in self._map("alpha_pattern")},
            modules_to_save=self._plain_names("modules_to_save"),
        )

    def _refuse_variants(self) -> None:
        bias = self._fields.get("bias", "none")
        if bias != "none":
            self._wrong("bias", f"is {_shown(bias)}: biases of the base were trained as well", MERGE_WITH_PEFT)
        start = self._fields.get("init_lora_weights", True)
        if not isinstance(start, bool) and start is not None and start not in _HARMLESS_STARTS:
            self._wrong(
                "init_lora_weights",
                f"is {_shown(start)}: such an initialisation changes the base weights, so the adapter does not fit "
                "the base as it was published",
                "save it as an ordinary adapter with peft's save_pretrained(..., "
                "path_initial_model_for_weight_conversion=...), or\n" + MERGE_WITH_PEFT,
            )
        for key, value in self._fields.items():
            if key in _REFUSED and value:
                self._wrong(key, _REFUSED[key], MERGE_WITH_PEFT)
            elif key not in _REFUSED and key not in _READ and key not in _WITHOUT_EFFECT and value:
                message = f"is {_shown(value)}: this setting is not known here and may change the result"
                self._wrong(key, message, MERGE_WITH_PEFT)

    def _targets(self) -> tuple[str, ...] | str:
        found = self._names_or_pattern("target_modules")
        if not found and not self.problems:
            message = "names no module: PEFT writes the modules that it adapted here"
            self._wrong("target_modules", message, MERGE_WITH_PEFT)
        if isinstance(found, str) and (self._fields.get("layers_to_transform") or self._fields.get("layers_pattern")):
            self._wrong(
                "layers_to_transform", "cannot stand beside a target_modules that is a pattern", MERGE_WITH_PEFT
            )
        return found

    def _names_or_pattern(self, key: str) -> tuple[str, ...] | str:
        value = self._fields.get(key)
        return value if isinstance(value, str) else self._names(key, value)

    def _names(self, key: str, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not all(
            isinstance(item, str) and 0 < len(item) <= _LONGEST_NAME for item in value
        ):
            self._wrong(key, f"is {_shown(value)}; it has to be a list of names")
            return ()
        if len(value) > _MOST_NAMES:
            self._wrong(key, f"lists {len(value):,} names; at most {_MOST_NAMES:,} are read")
            return ()
        return tuple(value)

    def _plain_names(self, key: str, *, one: bool = False) -> tuple[str, ...]:
        """Read names that PEFT puts into regular expressions of its own: only such as mean themselves there."""
        value = self._fields.get(key)
        if one and isinstance(value, str):
            value = [value] if value else []
        names = self._names(key, value)
        wrong = [name for name in names if not _NAME.fullmatch(name)]
        if wrong:
            message = f"holds {_shown(wrong[0])}; names are letters, digits, '_', '-' and '.'"
            self._wrong(key, message, MERGE_WITH_PEFT)
        return names

    def _layers(self) -> tuple[int, ...] | None:
        value = self._fields.get("layers_to_transform")
        if value is None or value == []:
            if self._fields.get("layers_pattern"):
                self._wrong("layers_pattern", "needs layers_to_transform")
            return None
        layers = value if isinstance(value, list) else [value]
        if not all(type(layer) is int and layer >= 0 for layer in layers):
            self._wrong("layers_to_transform", f"is {_shown(value)}; it has to be layer numbers from 0")
            return None
        return tuple(layers)

    def _map(self, key: str) -> list[tuple[str, Any]]:
        value = self._fields.get(key)
        if not value and not isinstance(value, (int, str)):
            return []
        if not isinstance(value, dict) or len(value) > _MOST_NAMES:
            self._wrong(key, f"is {_shown(value)}; it has to map patterns to numbers, at most {_MOST_NAMES:,}")
            return []
        return list(value.items())

    def _rank(self, key: str, value: Any) -> int:
        if type(value) is int and 0 < value <= _LARGEST_RANK:
            return value
        self._wrong(key, f"is {_shown(value)}; it has to be a whole number from 1 to {_LARGEST_RANK:,}")
        return 1

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30:
            return float(value)
        self._wrong(key, f"is {_shown(value)}; it has to be a number")
        return math.nan

    def _flag(self, key: str) -> bool:
        value = self._fields.get(key)
        if value not in (None, True, False):
            self._wrong(key, f"is {_shown(value)}; it has to be true or false")
        return bool(value)

    def _wrong(
        self, key: str, message: str, fix: str = "copy adapter_config.json again from where it was made"
    ) -> None:
        self.problems.append(Problem(where=self._where, key=printable(key, 80), message=message, fix=fix))


def _shown(value: object) -> str:
    return printable(repr(value), 60)
