"""Known files are named, others are told with their hash."""

from __future__ import annotations

import pytest
from qvl_eval.tsv_versions import VERSIONS, name_version, version_warning


@pytest.mark.parametrize("benchmark", sorted(VERSIONS))
def test_todays_file_is_named_and_warned_of_by_nothing(benchmark: str) -> None:
    today = VERSIONS[benchmark][0]
    assert name_version(benchmark, today.md5) == today.name
    assert version_warning(benchmark, today.md5) == ""


@pytest.mark.parametrize("benchmark", sorted(VERSIONS))
def test_any_other_file_is_told_with_its_hash_and_the_known_ones(benchmark: str) -> None:
    text = version_warning(benchmark, "0" * 32)
    assert "its md5 is " + "0" * 32 in text
    assert VERSIONS[benchmark][0].md5 in text
    assert name_version(benchmark, "0" * 32) == "unknown"


def test_an_old_version_is_named_with_what_is_wrong_with_it() -> None:
    text = version_warning("mmmu_dev_val", "521afc0f3bf341e6654327792781644d")
    assert "until 2024-12-30" in text
    assert "wrong options" in text


def test_a_benchmark_without_published_files_has_no_warning() -> None:
    assert version_warning("digits_test", "0" * 32) == ""
