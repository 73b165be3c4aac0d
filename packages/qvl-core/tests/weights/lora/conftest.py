"""The fixture `lab`: adapters in PEFT's format for small models."""

import sys
from pathlib import Path

# pytest's importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))

from adapter_lab import lab

__all__ = ["lab"]
