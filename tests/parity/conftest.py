"""Let the parity tests import the oracles beside them, and what tests of the packages make for themselves.

pytest's importlib mode adds no folder to the path.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "qvl-core" / "tests" / "weights"))
sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "qvl-data" / "tests"))

from torchvision_ops import declare_missing_operators

# Before anything imports torchvision, which transformers does where it finds it.
OPERATORS = declare_missing_operators()
