"""`qvl recipes` and the header that it reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from qvl_core import load_recipe
from qvl_core.cli.recipe_header import Header, read_header
from qvl_core.conformance.device_result import RESULT_FILE

_SPEC = importlib.util.spec_from_file_location(
    "device_file", Path(__file__).parents[1] / "conformance" / "device_file.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
device_file = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(device_file)


def test_lists_every_recipe_with_what_it_runs(qvl, folder: Path) -> None:
    result = qvl("recipes", ".")
    assert result.code == 0
    tiny = next(line for line in result.out.splitlines() if line.startswith("tiny "))
    assert tiny.split()[1:8] == ["sft", "tiny", "tp1", "pp1", "dp1", "1", "cpu"]
    assert "cpu-tiny" in tiny
    assert tiny.rstrip().endswith("Teach a tiny model nothing")
    assert "qwen2.5-vl-32b" in result.out


def test_a_recipe_with_problems_is_listed_with_the_way_to_see_them(qvl, folder: Path) -> None:
    (folder / "bad.toml").write_text("schema = 1\n")
    result = qvl("recipes", ".")
    assert result.code == 0
    assert "qvl check bad.toml" in result.out


def test_sizes_are_in_order(qvl, folder: Path) -> None:
    for name in ("3b_sft", "32b_sft"):
        (folder / f"{name}.toml").write_text((folder / "72b.toml").read_text())
    names = [line.split()[0] for line in qvl("recipes", ".").out.splitlines() if line[:1].isdigit()]
    assert names == ["3b_sft", "32b_sft", "72b"]


def test_a_folder_without_recipes_ends_with_2(qvl, folder: Path) -> None:
    assert "holds no *.toml files" in qvl("recipes", "media").err
    result = qvl("recipes")
    assert result.code == 2
    assert "there is no such folder" in result.err


def test_reads_purpose_and_status_from_the_opening_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("# Fine-tune Qwen2.5-VL on\n# digits. Slowly.\n#\n# status   device-verified: once\nschema = 1\n")
    assert read_header(path) == Header(purpose="Fine-tune Qwen2.5-VL on digits", status="device-verified")
    path.write_text("schema = 1\n# Not the header.\n# status simulated\n")
    assert read_header(path) == Header()
    assert read_header(tmp_path / "none.toml") == Header()


class TestDeviceVerified:
    """Only the result file of `nox -s npu` raises a recipe."""

    @pytest.fixture
    def digests(self, folder: Path) -> dict[str, str]:
        return {"tiny_sft": "a" * 64, "tiny": load_recipe("tiny.toml").digest()}

    def status(self, qvl, recipe: str = "tiny") -> str:
        line = next(line for line in qvl("recipes", ".").out.splitlines() if line.startswith(f"{recipe} "))
        return " ".join(line.split()[8:]).partition(" Teach")[0]

    def test_without_a_file_none_is(self, qvl, folder: Path) -> None:
        assert self.status(qvl) == "cpu-tiny"
        assert "no recipe is device-verified" in qvl("recipes", ".").out

    def test_a_claim_in_the_comment_is_none(self, qvl, folder: Path) -> None:
        path = folder / "tiny.toml"
        path.write_text(path.read_text().replace("cpu-tiny", "device-verified"))
        assert self.status(qvl) == "claimed, not verified"

    def test_the_file_raises_the_recipe_that_ran(self, qvl, folder: Path, digests: dict[str, str]) -> None:
        device_file.write(folder / RESULT_FILE, device_file.sealed(device_file.good(digests)))
        assert self.status(qvl) == "device-verified"
        assert "device: 910B3, MindSpore 2.7.0, CANN 8.2.RC1" in qvl("recipes", ".").out
        assert "\n  attention in the form bsnd: conforms, " in qvl("recipes", ".").out
        assert "device-verified" not in next(x for x in qvl("recipes", ".").out.splitlines() if x.startswith("72b "))

    def test_a_change_of_the_recipe_takes_it_back(self, qvl, folder: Path, digests: dict[str, str]) -> None:
        device_file.write(folder / RESULT_FILE, device_file.sealed(device_file.good(digests)))
        path = folder / "tiny.toml"
        path.write_text(path.read_text().replace("lr = 1e-3", "lr = 1e-4"))
        assert self.status(qvl) == "cpu-tiny"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"device": "cpu"}, "was made on cpu"),
            ({"npu_smi": ""}, "no output of npu-smi"),
            ({"program": "0"}, "other kernels or another suite"),
        ],
    )
    def test_a_file_of_a_cpu_or_of_other_code_raises_nothing(
        self, qvl, folder: Path, digests: dict[str, str], change: dict[str, str], said: str
    ) -> None:
        device_file.write(folder / RESULT_FILE, device_file.sealed({**device_file.good(digests), **change}))
        assert self.status(qvl) == "cpu-tiny"
        out = qvl("recipes", ".").out
        assert "the result file is not taken" in out
        assert said in out
        # What another form of a kernel did on that device is worth knowing all the same.
        assert "\n  attention in the form bsnd: " in out

    def test_an_edited_file_raises_nothing(self, qvl, folder: Path, digests: dict[str, str]) -> None:
        data = device_file.sealed(device_file.good({"tiny_sft": "a" * 64}))
        data["trainings"][0]["recipe"] = "tiny"
        device_file.write(folder / RESULT_FILE, data)
        assert self.status(qvl) == "cpu-tiny"
        assert "was changed after it was written" in qvl("recipes", ".").out

    def test_what_the_file_says_of_itself_is_shown_short_and_without_control_characters(
        self, qvl, folder: Path, digests: dict[str, str]
    ) -> None:
        named = {"device_name": "910B3\x1b[31m\n" + "x" * 3000}
        device_file.write(folder / RESULT_FILE, device_file.sealed({**device_file.good(digests), **named}))
        out = qvl("recipes", ".").out
        assert "\\x1b[31m" in out
        assert "\x1b[31m" not in out
        assert "x" * 121 not in out.replace("\n", "")

    def test_a_problem_of_the_file_is_shown_short_and_without_control_characters(
        self, qvl, folder: Path, digests: dict[str, str]
    ) -> None:
        changed = {"signatures": ["\x1b[31m" + "y" * 3000]}
        device_file.write(folder / RESULT_FILE, device_file.sealed({**device_file.good(digests), **changed}))
        out = qvl("recipes", ".").out
        assert "other signatures than recorded: \\x1b[31m" in out
        assert "y" * 301 not in out.replace("\n", "").replace(" ", "")

    def test_a_broken_file_is_told_and_the_list_still_comes(self, qvl, folder: Path) -> None:
        (folder / RESULT_FILE).write_text("{")
        result = qvl("recipes", ".")
        assert result.code == 0
        assert "not JSON" in result.out
        assert self.status(qvl) == "cpu-tiny"
