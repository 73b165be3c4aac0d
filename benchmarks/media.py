"""Measure images and videos against HF's processors and against pure decoding; print JSON.

    python benchmarks/media.py [--rounds 5] [--seconds 1.0]

Needs what the parity session has: torch, transformers, torchvision, qwen-vl-utils, decord. One core, one thread each;
the sides take turns. Rates are units per second of processor time, decoding processes included, because the clock on
the wall counts what else the machine does. Images: 1280 x 960 JPEG, at the size of HF's default bounds and at
qvl's default of 262144 pixels. Videos: 720p H.264, 132 frames (10 are sampled) and 1500 frames (64 are sampled), at
the size of HF's default bounds and at qvl's default of 131072 pixels. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What has to be declared before torchvision is imported stands with the parity tests.
sys.path.insert(0, str(ROOT / "tests" / "parity"))
BOUNDS = {"images, HF's bounds": (56 * 56, 20_070_400), "images, 262144 pixels": (3136, 262_144)}
# Frames, frames per group, largest area of a frame.
CLIPS = {
    "132 frames in one group, HF's bounds": (132, 250, 768 * 28 * 28),
    "132 frames in groups of 25, 131072 pixels": (132, 25, 131_072),
    "1500 frames in groups of 48, 131072 pixels": (1500, 48, 131_072),
}


def main() -> None:
    """Measure everything and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side in each round")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.3 s, without the long clip")
    given = parser.parse_known_args()[0]
    timing = {"rounds": 2, "seconds": 0.3} if given.quick else {"rounds": given.rounds, "seconds": given.seconds}
    # Before numpy and torch are imported, so that both start one thread.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report: dict[str, Any] = {"machine": _machine()}
    with tempfile.TemporaryDirectory() as folder:
        report |= _measured(Path(folder), timing, is_quick=given.quick)
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))


def _measured(folder: Path, timing: dict[str, Any], *, is_quick: bool) -> dict[str, Any]:
    import torch
    import torchvision_ops

    torch.set_num_threads(1)
    operators = torchvision_ops.declare_missing_operators()
    from media_sides.clock import rates
    from media_sides.pictures import check_sides, image_sides
    from media_sides.videos import save_clip, video_sides
    from qvl_data.media.video_process import VideoProcesses

    found = {name: rates(image_sides(*bounds), **timing) for name, bounds in BOUNDS.items()}
    found["small files checked, 320 x 240"] = rates(check_sides(folder), **timing)
    for name, (frames, group, max_pixels) in CLIPS.items():
        if is_quick and frames > 132:
            continue
        processes = VideoProcesses(limit=1)
        clip = save_clip(folder / "clip.mp4", frames, group)
        found[f"videos, {name}"] = rates(video_sides(clip, max_pixels, processes), **timing)
        processes.close()
    del operators
    return found


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
