"""The published versions of the benchmark files, by md5: which one a file is. Nothing is downloaded or replaced.

Hashes are those in VLMEvalKit's source (e8e78f05) and its history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FileVersion:
    """A published file. `note` says what is wrong with an old one, "" for that of today."""

    name: str
    md5: str
    note: str = ""


VERSIONS: Mapping[str, tuple[FileVersion, ...]] = {
    "mmmu_dev_val": (
        FileVersion(name="MMMU_DEV_VAL since 2024-12-30", md5="585e8ad75e73f75dcad265dfd0417d64"),
        FileVersion(
            name="MMMU_DEV_VAL until 2024-12-30",
            md5="521afc0f3bf341e6654327792781644d",
            note="it was replaced because of wrong options (VLMEvalKit issue 677)",
        ),
    ),
    "docvqa_val": (
        FileVersion(name="DocVQA_VAL since 2024-03-12", md5="d5ee77e1926ff10690d469c56b73eabf"),
        FileVersion(
            name="DocVQA_VAL until 2024-03-12",
            md5="3744f5df4aaf2781c85fe7677ae0a411",
            note="its answers stand in a column `answers` (VLMEvalKit issue 103)",
        ),
    ),
    "ai2d_test": (
        FileVersion(name="AI2D_TEST (letters painted over the labels)", md5="0f593e0d1c7df9a3d69bf1f947e71975"),
        FileVersion(
            name="AI2D_TEST_NO_MASK",
            md5="fd8f463634d4fe9fbd23b876e8eea5be",
            note="it is another benchmark, on which models score 7 to 17 points more",
        ),
    ),
    "chartqa_test": (FileVersion(name="ChartQA_TEST", md5="c902e0aa9be5582a7aad6dcf52734b42"),),
}


def name_version(benchmark: str, md5: str) -> str:
    """Name the version that a file is, "unknown" for any other file."""
    return next((one.name for one in VERSIONS.get(benchmark, ()) if one.md5 == md5), "unknown")


def version_warning(benchmark: str, md5: str) -> str:
    """Say that a file is not today's published one, with its hash; "" where it is, or where none was published."""
    known = VERSIONS.get(benchmark, ())
    found = next((one for one in known if one.md5 == md5), None)
    if not known or (found is not None and not found.note):
        return ""
    if found is not None:
        return f"is {found.name} (md5 {md5}): {found.note}; today's is {known[0].name}, md5 {known[0].md5}"
    listed = "; ".join(f"{one.name}: {one.md5}" for one in known)
    return (
        f"is no known version of {benchmark}: its md5 is {md5}; known are {listed}. It is used as it is; "
        "its scores are comparable with those of the same file only"
    )
