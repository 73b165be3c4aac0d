"""Write the golden vectors of qvl-core's geometry tests: what HF transformers gives, for tests without torch.

Run `python tests/parity/make_geometry_vectors.py` in the environment of the parity session; commit the file it writes.
"""

from __future__ import annotations

import json
from pathlib import Path

import geometry_oracles as oracles
import numpy as np
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as hf_smart_resize

VECTORS = Path(__file__).parents[2] / "packages/qvl-core/tests/geometry/vectors.json"


def main() -> None:
    rng = np.random.default_rng(2)
    vectors = {
        "source": f"transformers {transformers.__version__}",
        "resize": [_resize(rng) for _ in range(400)],
        "windows": [_windows(rng) for _ in range(40)],
        "positions": [_positions(rng) for _ in range(40)],
    }
    VECTORS.write_text(json.dumps(vectors, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{VECTORS}: {VECTORS.stat().st_size} bytes")


def _resize(rng: np.random.Generator) -> list[int]:
    height, width = oracles.random_sides(rng)
    low, high = oracles.random_bounds(rng, 28)
    return [height, width, low, high, *hf_smart_resize(height, width, 28, low, high)]


def _windows(rng: np.random.Generator) -> dict[str, object]:
    merge, window = int(rng.integers(1, 4)), int(rng.choice([42, 56, 70, 112, 126]))
    vision = oracles.vision_spec(spatial_merge_size=merge, window_size=window)
    grids = oracles.random_grids(rng, merge, largest=7)
    index, window_lengths, frame_lengths = oracles.hf_windows(grids, vision)
    return {
        "merge": merge,
        "window": window,
        "grids": grids.tolist(),
        "index": index.tolist(),
        "window_lengths": window_lengths,
        "frame_lengths": frame_lengths,
    }


def _positions(rng: np.random.Generator) -> dict[str, object]:
    case = oracles.random_rope_case(rng, wrapped=True, largest=5)
    while case.input_ids.size > 400:
        case = oracles.random_rope_case(rng, wrapped=True, largest=5)
    paper, deltas = oracles.omni_positions(case)
    transformers5, _ = oracles.hf_positions(case)
    return {
        "merge": case.merge,
        "rate": case.rate,
        "input_ids": case.input_ids.tolist(),
        "mask": case.mask.tolist(),
        "images": case.images.tolist(),
        "videos": case.videos.tolist(),
        "seconds": [float(second) for second in case.seconds],
        "paper": paper.tolist(),
        "deltas": deltas.tolist(),
        "transformers5": transformers5.tolist(),
    }


if __name__ == "__main__":
    main()
