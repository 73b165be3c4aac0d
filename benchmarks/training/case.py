"""What is measured: which components are trained, and which tokens have a label."""

from __future__ import annotations

from dataclasses import dataclass

from training.shape import Labels


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement; `frozen` are components as in a recipe's `model.freeze`."""

    name: str
    frozen: tuple[str, ...]
    labels: Labels


CASES = (
    Case(name="all trained, text labelled", frozen=(), labels="text"),
    Case(name="vision frozen, text labelled", frozen=("vision", "merger"), labels="text"),
    Case(name="all trained, all labelled", frozen=(), labels="all"),
    Case(name="vision frozen, all labelled", frozen=("vision", "merger"), labels="all"),
)
