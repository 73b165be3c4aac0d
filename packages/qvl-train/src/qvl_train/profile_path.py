"""The paths that MindSpore's profiler writes to. It refuses all others, and says so in an error of its log only."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

# Any other character is refused (profiler/common/path_manager.py of 2.10), in the working directory's path too.
_REFUSED = re.compile(r"[^./_\-\s~0-9a-zA-Z\u4e00-\u9fa5]")


def refused_path(place: Path) -> str:
    """Say that the profiler will not write to a folder, why, and what to do; "" where it will."""
    places: list[tuple[Path, str]] = []
    # A working directory may be gone.
    with suppress(OSError):
        places.append((Path.cwd(), "start qvl from another folder"))
    # The profiler judges what links lead to.
    with suppress(OSError):
        places.append((place.resolve(), "choose another output.dir"))
    for path, change in places:
        refused = sorted(set(_REFUSED.findall(str(path))))
        if refused:
            return (
                f"MindSpore's profiler takes no path with {' '.join(refused)} in it, and there will be no profile: "
                f"{path}; {change}, with letters, digits and . _ - ~ only in its path"
            )
    return ""
