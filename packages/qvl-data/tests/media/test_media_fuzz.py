"""Thousands of damaged files: each gives pixels or a MediaError, within the deadline, and opens nothing else."""

from __future__ import annotations

import io
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from qvl_core.geometry import GeometryError
from qvl_core.specs.model_spec import VisionSpec
from qvl_data.media.error import MediaError
from qvl_data.media.images import check_image, load_image
from qvl_data.media.pixels import normalised_levels
from qvl_data.media.video import VideoRules, load_video, probe_video
from qvl_data.media.video_process import VideoProcesses
from video_files import save_video

IMAGES, VIDEOS = 2_600, 1_600
TIMEOUT_S = 180.0
VISION = VisionSpec(depth=1, hidden_size=16, num_heads=1, intermediate_size=16, out_hidden_size=16)
RULES = VideoRules(
    sampling="qwen",
    fps=8.0,
    min_frames=4,
    max_frames=8,
    min_pixels=784,
    max_pixels=3136,
    total_pixels=None,
    vision=VISION,
    levels=normalised_levels((0.5,) * 3, (0.5,) * 3, 1 / 255),
)


def mutated(rng: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Damage a file in one of the ways that disks, networks and attackers do."""
    data = np.frombuffer(content, np.uint8).copy()
    size = len(data)
    # Half of the damage lies in the first bytes, where headers are.
    at = int(rng.integers(0, size if rng.random() < 0.5 else min(size, 300)))
    length = int(min(size - at, rng.geometric(0.05)))
    kind = int(rng.integers(0, 8))
    if kind == 0:
        for place in rng.integers(0, size, int(rng.integers(1, 6))):
            data[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        data[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8)
    elif kind == 2:
        return content[:at]
    elif kind == 3:
        return content[:at] + content[at : at + length] * int(rng.integers(2, 50)) + content[at + length :]
    elif kind == 4:
        return content[:at] + content[at + length :]
    elif kind == 5:
        other = others[int(rng.integers(0, len(others)))]
        cut = int(rng.integers(1, min(len(other), 400)))
        return other[:cut] + content[cut:]
    elif kind == 6:
        # A number of a header made extreme.
        data[at : at + 4] = np.frombuffer(
            rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"]).ljust(4, b"\0"), np.uint8
        )[: len(data[at : at + 4])]
    else:
        data[at : at + length] ^= np.uint8(1 << int(rng.integers(0, 8)))
    return data.tobytes()


def image_contents() -> list[bytes]:
    rng = np.random.default_rng(1)
    pixels = Image.fromarray(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = []
    for file_format, mode, options in (
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {"exif": exif}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGB", {"exif": exif}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("GIF", "P", {"save_all": True, "append_images": [pixels.rotate(180).convert("P")]}),
    ):
        buffer = io.BytesIO()
        source = pixels.convert("L") if mode == "I;16" else pixels
        source.convert(mode).save(buffer, file_format, **options)
        contents.append(buffer.getvalue())
    return contents


def test_damaged_images_end_in_pixels_or_a_media_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(20261126)
    contents = image_contents()
    path = tmp_path / "x.img"
    opened: set[str] = set()
    watching, this_thread = True, threading.get_ident()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if (
            watching
            and threading.get_ident() == this_thread
            and event in ("open", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
        ):
            # A number is a file that is open already.
            opened.update(str(name) for name in arguments[:1] if not isinstance(name, int))

    # Pillow loads its readers from files the first time.
    check_image_of(path, contents)
    sys.addaudithook(watch)
    endings: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(IMAGES):
            data = mutated(rng, contents[number % len(contents)], contents)
            watching = False
            path.write_bytes(data)
            watching = True
            endings[image_ending(path)] += 1
    watching = False
    assert opened <= {str(path)}
    assert endings.total() == IMAGES
    assert min(endings["used"], endings["refused"]) > IMAGES / 20


def check_image_of(path: Path, contents: list[bytes]) -> None:
    for content in contents:
        path.write_bytes(content)
        facts = check_image(path)
        image = load_image(path, facts)
        assert (image.height, image.width) == (facts.height, facts.width)


def image_ending(path: Path) -> str:
    with suppress(MediaError):
        check_image(path, decode=False)
    try:
        facts = check_image(path)
        image = load_image(path, facts)
    except MediaError:
        return "refused"
    assert image.mode == "RGB"
    assert (image.height, image.width) == (facts.height, facts.width)
    return "used"


def video_contents(folder: Path) -> list[bytes]:
    small = {"frames": 12, "height": 32, "width": 48, "group": 5}
    # The encoder of x265 writes past its memory below this size.
    quiet = {"height": 64, "width": 64, "options": {"x265-params": "log-level=none"}}
    cases = (
        ("a.mp4", {}),
        ("b.mp4", {"container_options": {"movflags": "faststart"}}),
        ("c.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("d.mkv", {}),
        ("e.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}}),
        ("f.webm", {"codec": "libvpx"}),
        ("g.avi", {"codec": "mpeg4"}),
        ("h.ts", {"codec": "mpeg2video"}),
        ("i.mpg", {"codec": "mpeg2video"}),
        ("j.flv", {}),
        ("k.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("l.mkv", {"codec": "libx265", **quiet}),
    )
    return [save_video(folder / name, **{**small, **options}).read_bytes() for name, options in cases]


def test_damaged_videos_end_in_patches_or_a_media_error_within_the_deadline(tmp_path: Path) -> None:
    contents = video_contents(tmp_path)
    pool = VideoProcesses(limit=2)

    def ending(number: int) -> str:
        rng = np.random.default_rng((20261126, number))
        path = tmp_path / f"mutant{number}"
        path.write_bytes(mutated(rng, contents[number % len(contents)], contents))
        try:
            facts = probe_video(path, timeout_s=TIMEOUT_S, processes=pool)
            found = load_video(path, facts, RULES, timeout_s=TIMEOUT_S, processes=pool)
        except MediaError as error:
            return "late" if "within" in str(error) else "died" if "the process that" in str(error) else "refused"
        except GeometryError:
            return "refused"
        finally:
            path.unlink()
        assert found.patches.shape == (np.prod(found.grid), VISION.patch_dim)
        assert np.isfinite(found.times_s).all()
        return "used"

    try:
        with ThreadPoolExecutor(2) as threads:
            endings = Counter(threads.map(ending, range(VIDEOS)))
    finally:
        pool.close()
    assert endings.total() == VIDEOS
    assert endings["late"] == 0
    assert min(endings["used"], endings["refused"]) > VIDEOS / 20
