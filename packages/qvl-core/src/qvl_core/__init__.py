"""qvl: Qwen2.5-VL on MindSpore, from one recipe.

Python interface:

    load_recipe(path, overrides=())        a checked recipe
    load_spec(name_or_config)              the shape of a model
    Qwen25VL.from_pretrained(hf_dir)       the model; needs MindSpore

Names are imported when they are first used, so that reading a recipe never imports MindSpore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvl_core.model import Qwen25VL as Qwen25VL
    from qvl_core.recipe import load_recipe as load_recipe
    from qvl_core.specs import load_spec as load_spec

    __version__: str

__all__ = ["Qwen25VL", "__version__", "load_recipe", "load_spec"]


def __getattr__(name: str) -> object:
    if name == "load_recipe":
        from qvl_core.recipe import load_recipe

        return load_recipe
    if name == "load_spec":
        from qvl_core.specs import load_spec

        return load_spec
    if name == "Qwen25VL":
        from qvl_core.model import Qwen25VL

        return Qwen25VL
    if name == "__version__":
        from importlib.metadata import version

        return version("qvl-core")
    raise AttributeError(f"module 'qvl_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
