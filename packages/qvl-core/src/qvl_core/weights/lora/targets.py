"""Which tensors of a model an adapter changes: PEFT's matching rules, on the module names of the parameter table.

The rules are those of peft 0.21.2, `check_target_module_exists` and `get_pattern_key`. They see the names as the model
that was trained had them, so the spelling of the adapter's own keys is the one that is matched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from qvl_core.params import EMBEDDING, LM_HEAD, parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.lora.adapter_config import AdapterConfig
from qvl_core.weights.lora.patterns import find_matches
from qvl_core.weights.names import Naming, spell

Number = TypeVar("Number", int, float)

_ALL_LINEAR = "all-linear"
_WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The update of one weight: `scale * B @ A` with inner size `rank`. Shapes are those of the stored factors."""

    name: str
    rank: int
    scale: float
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What has to be in an adapter's file, by classic name of the weight: factors, and whole tensors to be replaced.

    `unused_patterns` are keys of rank_pattern and alpha_pattern that fit no adapted module; PEFT ignores them.
    `contested` are modules for which several keys of one of the two fit and say different things.
    """

    low_rank: Mapping[str, LowRank]
    replaced: Mapping[str, tuple[int, ...]]
    unused_patterns: tuple[str, ...]
    contested: tuple[str, ...]


def find_targets(config: AdapterConfig, spec: ModelSpec, naming: Naming) -> Targets:
    """Give what an adapter of this configuration consists of. Raises PatternError."""
    shapes = {parameter.name: parameter.shape for parameter in parameter_table(spec)}
    # A tied model has the layer all the same, without a tensor of its own.
    shapes.setdefault(LM_HEAD, shapes[EMBEDDING])
    modules = {
        spell(name, naming).removesuffix(_WEIGHT): name
        for name, shape in shapes.items()
        if name.endswith(_WEIGHT) and len(shape) > 1
    }
    replaced = {name: shape for name, shape in shapes.items() if _is_saved(spell(name, naming), config.modules_to_save)}
    targeted = _targeted(config, list(modules))
    ranks = _by_pattern(config.rank_pattern, targeted)
    alphas = _by_pattern(config.alpha_pattern, targeted)
    low_rank = {}
    for module in targeted:
        name, rank, alpha = (
            modules[module],
            ranks.values.get(module, config.rank),
            alphas.values.get(module, config.alpha),
        )
        shape = shapes[name]
        low_rank[name] = LowRank(
            name=name,
            rank=rank,
            scale=alpha / math.sqrt(rank) if config.rslora else alpha / rank,
            a_shape=(rank, *shape[1:]),
            # A convolution's second factor is a convolution with a kernel of one element.
            b_shape=(shape[0], rank, *(1 for _ in shape[2:])),
        )
    return Targets(
        low_rank=low_rank,
        replaced=replaced,
        unused_patterns=(*ranks.unused, *alphas.unused),
        contested=tuple(module for module in targeted if module in ranks.contested | alphas.contested),
    )


def _targeted(config: AdapterConfig, modules: Sequence[str]) -> list[str]:
    wanted = _matching(config.target_modules, modules) if config.target_modules else frozenset()
    excluded = _matching(config.exclude_modules, modules) if config.exclude_modules else frozenset()
    saved = [re.compile(rf"(^|.*\.){name}($|\..*)") for name in config.modules_to_save]
    return [
        module
        for module in modules
        if module in wanted
        and module not in excluded
        and not any(pattern.match(module) for pattern in saved)
        and _in_layers(config, module)
    ]


def _matching(wanted: tuple[str, ...] | str, modules: Sequence[str]) -> frozenset[str]:
    if isinstance(wanted, str):
        if wanted.lower() == _ALL_LINEAR:
            # PEFT leaves the output layer out; embedding and patch embedding are no linear layers.
            others = {"lm_head"}
            return frozenset(
                module
                for module in modules
                if module not in others and not module.endswith(("embed_tokens", "patch_embed.proj"))
            )
        return find_matches([wanted], modules)[0]
    names = frozenset(wanted)
    return frozenset(module for module in modules if any(end in names for end in _ends(module)))


def _ends(module: str) -> Iterator[str]:
    """Give the name, and what follows each of its dots."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


def _in_layers(config: AdapterConfig, module: str) -> bool:
    # A module that is named in full is meant, in whatever layer it is.
    if config.layers is None or module in config.target_modules:
        return True
    if config.layers_pattern:
        patterns = [rf"(?:^|.*?\.){name}\.(?P<layer>\d+)\." for name in config.layers_pattern]
    else:
        patterns = [r".*?\.[^.]*\.(?P<layer>\d+)\."]
    for pattern in patterns:
        if found := re.match(pattern, module):
            return int(found["layer"]) in config.layers
    return False


@dataclass(frozen=True, kw_only=True)
class _Values(Generic[Number]):
    values: Mapping[str, Number]
    unused: tuple[str, ...]
    contested: frozenset[str]


def _by_pattern(patterns: Mapping[str, Number], modules: Sequence[str]) -> _Values[Number]:
    """Give each module's value: that of the first pattern in the file that fits."""
    values: dict[str, Number] = {}
    unused: list[str] = []
    contested: set[str] = set()
    for key, fitting in zip(patterns, find_matches(list(patterns), modules, anywhere=True), strict=True):
        if not fitting:
            unused.append(key)
        contested.update(module for module in fitting if values.setdefault(module, patterns[key]) != patterns[key])
    return _Values(values=values, unused=tuple(unused), contested=frozenset(contested))


def _is_saved(name: str, saved: Sequence[str]) -> bool:
    """Tell whether PEFT saves a parameter as part of a module: one of its modules' names ends like this."""
    parts = name.split(".")[:-1]
    return any(".".join(parts[:count]).endswith(tuple(saved)) for count in range(1, len(parts) + 1))
