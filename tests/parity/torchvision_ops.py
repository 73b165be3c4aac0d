"""Let torchvision be imported beside a torch that it was not built for.

The parity session installs a CPU build of torch, and the torchvision of the package index, which is built for GPUs: its
compiled operators do not load. None is used here, but its import wants two of them to be declared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_DECLARATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_missing_operators() -> torch.library.Library | None:
    """Declare what `import torchvision` looks for, if its own library does not load. Keep what is given back."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or any(map(_loads, Path(found.origin).parent.glob("_C*.so"))):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for declaration in _DECLARATIONS:
        library.define(declaration)
    return library


def _loads(path: Path) -> bool:
    try:
        torch.ops.load_library(path)
    except OSError:
        return False
    return True
