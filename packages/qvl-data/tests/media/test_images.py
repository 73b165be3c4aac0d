"""Each image file has one defined RGB meaning, or one short reason why it is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import save_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from qvl_data.media.images import ImageError, ImageFacts, check_image, decode_image, decode_reduced, load_image


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"this is text", "is not a JPEG, PNG, WEBP, BMP, GIF image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not a JPEG"),
        (EPS, "is not a JPEG"),
        (png_header(10_000, 10_000), "10000 x 10000 = 100,000,000 pixels by its header, more than 89,478,485"),
        (png_header(20_000, 20_000), "more than 89,478,485"),
        (png_header(64, 64), "cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refuses_what_is_no_image_or_too_large(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        check_image(path)
    with pytest.raises(ImageError):
        load_image(path)


def test_refuses_a_missing_file_a_folder_and_a_pipe_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, message in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "pipe.png", "pipe"),
    ):
        with pytest.raises(ImageError, match=message):
            check_image(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_truncated_files_are_found_by_the_check(tmp_path: Path, file_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), file_format)
    path = tmp_path / "x.img"
    path.write_bytes(content)
    facts = check_image(path)
    assert (facts.height, facts.width) == (200, 300)
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(ImageError):
            check_image(path)


def test_huge_compressed_text_in_a_png_is_refused(tmp_path: Path) -> None:
    good = encoded(Image.new("RGB", (4, 4)))
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000))
    path = tmp_path / "x.png"
    path.write_bytes(good[:33] + text + good[33:])
    with pytest.raises(ImageError):
        check_image(path)


def test_alpha_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    assert decode_image(encoded(half)).getpixel((0, 0)) == (255, 127, 127)
    grey = Image.new("LA", (2, 2), (0, 0))
    assert decode_image(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)


def test_palette_and_its_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert list(np.asarray(decode_image(encoded(image))).reshape(-1, 3)[1]) == [40, 50, 60]
    found = np.asarray(decode_image(encoded(image, transparency=0))).reshape(-1, 3)
    assert found.tolist() == [[255, 255, 255], [40, 50, 60]]


def test_sixteen_bit_grey_keeps_the_high_byte() -> None:
    levels = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    found = np.asarray(decode_image(encoded(Image.fromarray(levels))))
    assert found[0, :, 0].tolist() == [0, 0, 1, 0x80, 0xFF]
    assert (found == found[:, :, :1]).all()


def test_cmyk_grey_and_black_white() -> None:
    assert decode_image(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)).mode == "RGB"
    assert decode_image(encoded(Image.new("L", (1, 1), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert decode_image(encoded(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_to_pixels_and_size(tmp_path: Path, file_format: str) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # Shown after a quarter turn clockwise: what is left comes on top.
    path = tmp_path / "x.img"
    path.write_bytes(encoded(image, file_format, exif=exif))
    facts = check_image(path)
    shown = load_image(path)
    assert (facts.height, facts.width) == (40, 20) == (shown.height, shown.width)
    assert shown.getpixel((10, 5))[0] > 200
    assert shown.getpixel((10, 35))[0] < 50


def test_an_orientation_outside_1_to_8_changes_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert (check_image(path).height, check_image(path).width) == (20, 40)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), (index, 0, 0)) for index in (200, 100, 50)]
    for file_format in ("GIF", "WEBP"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert decode_image(content).getpixel((0, 0)) == (200, 0, 0)


def test_a_file_changed_after_the_check_is_named_not_used(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", seed=1)
    facts = check_image(path)
    assert load_image(path, facts).size == (80, 60)
    save_image(path, seed=2)
    with pytest.raises(ImageError, match="changed after it had been checked"):
        load_image(path, facts)


# --- headers alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_headers_alone_give_the_facts_of_decoding(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "x.img"
    for orientation in (None, 3, 6):
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        path.write_bytes(encoded(Image.new("RGB", (40, 20)), file_format, exif=exif))
        assert check_image(path, decode=False) == check_image(path)


def test_headers_alone_see_an_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (40, 20)))
    end = content[-12:]
    path = tmp_path / "x.png"
    path.write_bytes(content[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + end)
    assert check_image(path, decode=False) == check_image(path)
    assert check_image(path).height == 40


def test_headers_alone_do_not_look_at_pixels(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert check_image(path, decode=False).height == 60
    with pytest.raises(ImageError):
        check_image(path)


def test_headers_alone_refuse_what_headers_tell(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for content in (b"", b"text", EPS, png_header(20_000, 20_000)):
        path.write_bytes(content)
        with pytest.raises(ImageError):
            check_image(path, decode=False)


# --- odd files --------------------------------------------------------------------------------------------------------


def test_a_long_animation_is_not_decoded_beyond_its_first_frame(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette(range(30))
    one = encoded(image, "GIF")
    # An image block starts with a comma, which no earlier byte of this file is; the last byte ends the file.
    block = one[one.index(b",") : -1]
    whole = one[:-1] + block * 9_999
    assert Image.open(io.BytesIO(whole + b";")).n_frames == 10_000
    path = tmp_path / "x.gif"
    # In the second file what follows the first frame is spoilt: reading on would fail.
    for content in (whole + b";", one[:-1] + b"\xff" * len(block) * 9_999):
        path.write_bytes(content)
        assert check_image(path).height == 4
        assert load_image(path).getpixel((0, 0)) == (3, 4, 5)


def test_ghostscript_is_never_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    for name in ("x.eps", "x.ps", "x.png"):
        (tmp_path / name).write_bytes(EPS)
        with pytest.raises(ImageError, match="is not a JPEG"):
            load_image(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "content", [b"%PDF-1.7\n", b"II*\0" + b"\0" * 50, b"\0\0\1\0" + b"\0" * 50, b"P6 1 1 255\n000"]
)
def test_other_formats_of_pillow_are_refused(content: bytes) -> None:
    with pytest.raises(ImageError, match="is not a JPEG"):
        decode_image(content)


@pytest.mark.parametrize("name", ["two words.png", "图.png", "\U0001f600.png", "line\nbreak.png"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    assert check_image(save_image(tmp_path / name)).height == 60


def test_an_unreadable_file_is_named_with_the_user(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png")
    path.chmod(0)
    # The superuser may read everything, so the test puts another user on for a moment.
    user = os.geteuid() or 65534
    os.seteuid(user)
    try:
        with pytest.raises(ImageError, match=f"cannot be opened by user {user}: Permission denied"):
            check_image(path)
    finally:
        os.seteuid(os.getuid())


@pytest.mark.parametrize("size", [(1, 1), (30_000, 10), (1, 20_000)])
def test_sizes_that_only_the_resizing_rule_may_refuse_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", size).save(path)
    assert (check_image(path).width, check_image(path, decode=False).height) == size


@pytest.mark.parametrize("bits", [(0x1234, 0xFF00, 0x00FF)])
def test_sixteen_bit_colour_keeps_the_high_byte(bits: tuple[int, int, int]) -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">3H", *bits))
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    assert decode_image(content).getpixel((0, 0)) == tuple(level >> 8 for level in bits)


GOOD = {
    name: encoded(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)), name)
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF")
}


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 2000), st.binary(min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_end_in_an_image_or_an_image_error(file_format: str, at: int, noise: bytes) -> None:
    content = GOOD[file_format]
    at %= len(content)
    try:
        found = decode_image(content[:at] + noise + content[at + len(noise) :])
    except ImageError:
        return
    assert found.mode == "RGB"


def test_facts_are_plain_values(tmp_path: Path) -> None:
    found = check_image(save_image(tmp_path / "x.png"))
    assert found == ImageFacts(height=60, width=80, digest=found.digest)
    assert len(found.digest) == 64


def test_a_reduced_picture_is_the_whole_picture_and_no_smaller_than_asked() -> None:
    image = Image.new("RGB", (640, 320), "blue")
    image.paste((255, 0, 0), (0, 0, 320, 320))
    reduced = decode_reduced(encoded(image, "JPEG", quality=95), 100)
    assert reduced.size == (160, 80)
    left, right = reduced.getpixel((20, 40)), reduced.getpixel((140, 40))
    assert left[0] > 240 > 15 > left[2]
    assert right[2] > 240 > 15 > right[0]
    assert decode_reduced(encoded(image), 100).size == (640, 320)


def test_a_reduced_picture_is_turned_and_made_rgb_like_any() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_reduced(encoded(Image.new("L", (640, 320), 7), "JPEG", exif=exif), 100)
    assert turned.size == (80, 160)
    assert turned.mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"no image", encoded(Image.new("RGB", (90, 90)), "JPEG")[:-20]])
def test_a_reduced_picture_is_refused_like_any(content: bytes) -> None:
    with pytest.raises(ImageError):
        decode_reduced(content, 10)
