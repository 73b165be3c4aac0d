"""The fixture `lab`: adapters in PEFT's format for small models. The tests of qvl-core have it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "qvl-core" / "tests" / "weights" / "lora"))

from adapter_lab import lab

__all__ = ["lab"]
