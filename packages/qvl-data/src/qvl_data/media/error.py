"""The errors of media files."""

from __future__ import annotations


class MediaError(ValueError):
    """An image or video that cannot be used; the text starts with what is wrong. Callers add file and record."""


class UncertainMediaError(MediaError):
    """A medium that could not be read here and now: too slow, or its decoder died. Elsewhere it might be read."""
