"""Where each layer and each slice of it lives: tensor, pipeline and data parallel degrees and the stage lists."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.specs.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A parallel layout. `vision_stages` and `text_stages` count layers on each of the `pp` stages."""

    vision_stages: tuple[int, ...]
    text_stages: tuple[int, ...]
    tp: int = 1
    pp: int = 1
    dp: int = 1

    @classmethod
    def single(cls, spec: ModelSpec) -> Layout:
        """Give the layout of one process that holds everything."""
        return cls(vision_stages=(spec.vision.depth,), text_stages=(spec.text.num_layers,))

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.dp
