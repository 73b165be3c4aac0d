"""What all sections of a recipe have in common, and the field types that several of them use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Component = Literal["vision", "merger", "text"]


def as_tuple(value: Any) -> Any:
    """Give a tuple for a list.

    Strict sections refuse a list where a tuple is declared, and TOML knows lists only. Strict(False) says that a tuple
    takes both, but pydantic 2.7 does not heed it in a union.
    """
    return tuple(value) if isinstance(value, list) else value


Components = Annotated[tuple[Component, ...], BeforeValidator(as_tuple)]
PathText = Annotated[str, Field(min_length=1, max_length=4096)]
LayerCount = Annotated[int, Field(ge=0, le=10_000)]


class Section(BaseModel):
    """One table of a recipe: frozen, no unknown keys, no NaN, and 4 is not "4"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def section_defaults() -> Any:
    """Stand for a section that is left out: an empty table, so that each key gets its default.

    A section object as default would make pydantic build that section a second time: 30 ms at every start.
    """
    return {}
