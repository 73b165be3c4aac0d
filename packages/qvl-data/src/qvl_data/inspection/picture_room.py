"""What the pictures of a page may take: a page is mailed."""

from __future__ import annotations

from qvl_data.inspection.report import Thumbnail


class PictureRoom:
    """How many bytes the pictures of a page may still take."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @property
    def is_full(self) -> bool:
        """Whether a picture has been refused: then none is made any more."""
        return self._left < 0

    def admit(self, made: Thumbnail) -> Thumbnail:
        """Give the thumbnail back; without its picture, and with the reason, where there is no room for it."""
        if self._left >= 0:
            self._left -= len(made.uri)
        return (
            made
            if not (made.uri and self.is_full)
            else Thumbnail(caption=made.caption, error="left out: the page is full")
        )
