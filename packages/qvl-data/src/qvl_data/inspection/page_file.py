"""Write a page where the user wants it, and never over a file that is not such a page."""

from __future__ import annotations

from pathlib import Path

from qvl_core.durable import atomic_write, make_folder
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import open_regular_file, printable

# The commands that write pages.
DATA_PAGE = "qvl data"
_ELSEWHERE = "choose another place for the page, or make this folder writable"
# The mark stands in the first line of a page.
_HEAD_BYTES = 200


def mark(maker: str) -> str:
    """Give the comment in the first line of a page by which its maker knows it again."""
    return f"<!-- {maker} page -->"


def require_page_place(path: Path, *, overwrite: bool = False, maker: str = DATA_PAGE) -> None:
    """Raise OutputError unless a page can be written at `path`: nothing is there, or an older page of this maker."""
    where = printable(str(path))
    if path.is_dir():
        raise OutputError(Problem(where=where, message="is a folder", fix=f"{where}/index.html"))
    if not path.exists() or overwrite:
        return
    with open_regular_file(path, error_type=OutputError) as file:
        head = file.read(_HEAD_BYTES)
    if mark(maker).encode() not in head:
        message = f"there is a file already, and it is not a page of `{maker}`; it is left as it is"
        raise OutputError(Problem(where=where, message=message, fix="choose another name, or add --overwrite"))


def write_page(
    path: Path, page: str | bytes, *, overwrite: bool = False, maker: str = DATA_PAGE, fix: str = _ELSEWHERE
) -> None:
    """Write a page; readers see the old one or the whole new one.

    Raises OutputError as `require_page_place` does, and with `fix` where the place cannot be written.
    """
    require_page_place(path, overwrite=overwrite, maker=maker)
    make_folder(path.parent)
    atomic_write(path, page, fix=fix)
