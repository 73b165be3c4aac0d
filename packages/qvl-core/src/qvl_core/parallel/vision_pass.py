"""The vision features of single media, computed by the stages of one replica: forward only, nothing is kept for later.

The stages that hold vision layers run them and pass on what comes of them, as in training; the stage that places
features among the text tokens gives them to its caller. Later stages have nothing to do.

Legend: P patches, C numbers in a patch, U merged units, E text width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.layout import Layout
from qvl_core.model import Qwen25VL
from qvl_core.model.plan import plan_vision
from qvl_core.parallel.world import World
from qvl_core.specs.model_spec import VisionSpec
from qvl_core.stage_part import flow_after


class VisionPass:
    """One rank's part. All ranks of a replica up to the stage that embeds call `features` for the same media."""

    def __init__(self, model: Qwen25VL, world: World) -> None:
        self._model = model
        self._world = world
        self._stage = world.place.pp
        self.reads_patches = model.part.patch_embed
        """Whether this rank begins with patches."""
        self.gives_features = model.part.embeds
        """Whether this rank is the one, or with tp one of those, that features come out of."""
        self.takes_part = bool(model.part.vision_layers) or not _text_begins_before(world.layout, self._stage)

    def features(self, patches_PC: NDArray[np.float32] | None, grid: tuple[int, int, int]) -> NDArray[Any] | None:
        """Give the features [U, E] of a medium in window order where they come out, None elsewhere.

        `patches_PC` is read where `reads_patches`. bfloat16 ones are bit patterns in uint16.
        """
        model, stage = self._model, self._stage
        rows = int(np.prod(grid))
        own = patches_PC if self.reads_patches else None
        x: Tensor | None = None
        if stage:
            shape = vision_flow(self._world.layout, stage - 1, rows, model.spec.vision)
            x = self._world.receive(shape, model.dtype, stage - 1)
        if model.part.vision_layers:
            grids = np.array([grid], np.int32)
            (vision,) = plan_vision(own, grids, model.spec, model.dtype, apart=False)
            x = model.see_one(vision, x)
        assert x is not None, f"stage {stage} has no vision layers and nothing came"
        if self.gives_features:
            return _host(x)
        self._world.send(x, stage + 1)
        return None

    def finish(self) -> None:
        """Wait until everything sent has been taken."""
        self._world.finish_sends()


def vision_flow(layout: Layout, stage: int, patches: int, vision: VisionSpec) -> tuple[int, int]:
    """Give the shape of what `stage`, before the text, sends to the next one for so many patches, at least one."""
    if flow_after(layout, stage) == "patches":
        return patches, vision.hidden_size
    return patches // vision.merge_unit, vision.out_hidden_size


def _text_begins_before(layout: Layout, stage: int) -> bool:
    return any(layout.text_stages[:stage])


def _host(x: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = x.asnumpy()
    # MindSpore's own kind of two bytes is bfloat16, which numpy does not know.
    return array if array.dtype in (np.float32, np.float16) else array.view(np.uint16)
