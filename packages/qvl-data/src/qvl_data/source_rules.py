"""How the records of one source are read, apart from how often they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvl_core.recipe.sections import SourceSection, TagSection, ValidationSection


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """A file or folder of records, their format, and where their media may lie."""

    path: Path
    format: str
    tags: TagSection | None
    media_root: Path
    allow_outside: bool
    max_samples: int | None = None


def rules_of(source: SourceSection | ValidationSection) -> SourceRules:
    """Give the rules of a source of a recipe; without media_root, media lie where the records do."""
    assert source.path is not None, "a validation section with a fraction has no records of its own"
    path = Path(source.path)
    own_folder = path if path.is_dir() else path.parent
    return SourceRules(
        path=path,
        format=source.format,
        tags=source.tags,
        media_root=Path(source.media_root) if source.media_root else own_folder,
        allow_outside=source.allow_outside_media_root,
        max_samples=source.max_samples if isinstance(source, SourceSection) else None,
    )
