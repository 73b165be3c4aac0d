"""What decides an answer, as one record with a digest: weights, data, prompt settings, generation settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings and hashes under which rows are answered. How many rows at a time, and where, is not among them."""

    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """Give the sha256 of the settings in a fixed spelling."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def hashes(self) -> dict[str, str]:
        """Give the hashes for `run.json`."""
        return {"data": self.settings["data"], "weights": self.settings["weights"], "protocol": self.digest}


def protocol_of(recipe: Recipe, *, data_digest: str, weights_digest: str) -> Protocol:
    """Collect the protocol of a recipe with [eval]; its `data.image` holds the limits that count."""
    assert recipe.eval is not None, "the schema demands [eval] for task eval"
    return Protocol(
        settings={
            "benchmark": recipe.eval.benchmark,
            "prompts": recipe.eval.prompts,
            "compat": recipe.eval.compat,
            "data": data_digest,
            "weights": weights_digest,
            "dtype": recipe.model.dtype,
            "image": recipe.data.image.model_dump(mode="json"),
            "generation": recipe.generation.model_dump(mode="json"),
        }
    )


def model_digest(folder: HFFolder | ShardedFolder) -> str:
    """Give one hash for what makes the model: its tensors (sampled), tokenizer, processor, template, configs."""
    from qvl_core.weights.fingerprint import fingerprint
    from qvl_core.weights.hf_writer import list_side_files

    total = hashlib.sha256(fingerprint(folder).encode())
    for path in list_side_files(folder.path):
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
