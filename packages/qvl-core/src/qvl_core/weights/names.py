"""The two spellings of tensor names that HF checkpoints of this family come in.

Classic (the published checkpoints, and our own): `visual.*`, `model.*`, `lm_head.weight`. New (saved again by
transformers 4.52 and later): `model.visual.*`, `model.language_model.*`, `lm_head.weight`.
"""

from __future__ import annotations

from typing import Literal

Naming = Literal["classic", "new"]

# Longest prefix first: every new prefix begins with the classic text prefix.
_NEW_TO_CLASSIC = (("model.language_model.", "model."), ("model.visual.", "visual."))
_CLASSIC_TO_NEW = (("visual.", "model.visual."), ("model.", "model.language_model."))


def to_classic(name: str) -> str:
    """Give the classic spelling of a name in either spelling."""
    return _swap(name, _NEW_TO_CLASSIC)


def to_new(name: str) -> str:
    """Give the new spelling of a name in either spelling."""
    return _swap(to_classic(name), _CLASSIC_TO_NEW)


def spell(name: str, naming: Naming) -> str:
    """Give a name in the spelling asked for."""
    return to_classic(name) if naming == "classic" else to_new(name)


def naming_of(names: list[str]) -> Naming:
    """Tell which spelling a list of names is in; one name of the new spelling decides."""
    return "new" if any(to_classic(name) != name for name in names) else "classic"


def _swap(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for old, new in prefixes:
        if name.startswith(old):
            return new + name[len(old) :]
    return name
