"""Let the parity tests import the oracles beside them, and the small models of qvl-core's tests.

pytest's importlib mode adds no folder to the path.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "qvl-core" / "tests" / "weights"))
