"""Importing the package is cheap, and using it never pulls in a framework."""

from __future__ import annotations

import subprocess
import sys

import pytest
import qvl_data


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone_imports_nothing_heavy() -> None:
    assert not modules_after("import qvl_data") & {"numpy", "transformers", "PIL", "torch", "mindspore"}


def test_using_it_imports_no_framework() -> None:
    loaded = modules_after("from qvl_data import prepare, batches, build_prompt, load_processor")
    assert not loaded & {"torch", "mindspore", "transformers"}


def test_every_public_name_is_there_also_the_second_time() -> None:
    for _ in range(2):
        for name in qvl_data.__all__:
            assert callable(getattr(qvl_data, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qvl_data.nothing
