"""Loading a recipe stays light: no array library, no model framework."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("mindspore", "numpy", "torch", "transformers", "jsonschema")


def test_loading_imports_nothing_heavy(load) -> None:
    load()
    code = (
        "import sys; from qvl_core.recipe import load_recipe; load_recipe('recipe.toml'); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
