"""Recognise, from the first bytes, the files that people have where weights are expected."""

from __future__ import annotations

from dataclasses import dataclass

_RESAVE = "save the weights as safetensors where you have that framework: model.save_pretrained(dir)"


@dataclass(frozen=True, kw_only=True)
class FoundKind:
    """What a file is, and the way out."""

    message: str
    fix: str


def recognise(start: bytes) -> FoundKind | None:
    """Tell what a file that is no safetensors file is, from its first bytes (512 are enough); None if unknown."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return FoundKind(
            message="is a Git LFS pointer, not the weights themselves", fix="git lfs install && git lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return FoundKind(
            message="is a web page (probably an error page or a login page) saved as weights",
            fix="download the file again, and look at what the server answers",
        )
    if start.startswith(b"PK\x03\x04"):
        return FoundKind(message="is a zip archive: probably a torch pickle, which qvl never loads", fix=_RESAVE)
    if len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
        return FoundKind(message="is a pickle (torch's old format), which qvl never loads", fix=_RESAVE)
    if start.startswith(b"\x93NUMPY"):
        return FoundKind(message="is a numpy array file, not safetensors", fix=_RESAVE)
    if start.startswith(b"GGUF"):
        return FoundKind(
            message="is a GGUF file, a format for quantised inference", fix="use the original safetensors checkpoint"
        )
    if start.startswith((b"\x89HDF", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return FoundKind(message="is an HDF5 or compressed file, not safetensors", fix="unpack it, or " + _RESAVE)
    if _looks_like_mindspore(start):
        return FoundKind(
            message="looks like a MindSpore .ckpt file, not safetensors",
            fix='in MindSpore: save_checkpoint(load_checkpoint("x.ckpt"), "x.safetensors", format="safetensors")',
        )
    if text.startswith((b"{", b"[")):
        return FoundKind(message="is JSON text, not weights", fix="give the .safetensors file")
    return None


def _looks_like_mindspore(start: bytes) -> bool:
    # A protobuf message: field 1, length-delimited, itself a message whose field 1 is the parameter's name.
    if start[:1] != b"\x0a":
        return False
    position = 1
    while position < min(len(start), 11) and start[position] & 0x80:
        position += 1
    inner = start[position + 1 : position + 3]
    return len(inner) == 2 and inner[0] == 0x0A and 0 < inner[1] < 0x80
