"""The one error of media files."""

from __future__ import annotations


class MediaError(ValueError):
    """An image or video that cannot be used; the text starts with what is wrong. Callers add file and record."""
