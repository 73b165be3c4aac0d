"""The light part works where mindspore, torch and transformers cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """\
schema = 1
task = "infer"
[model]
name = "qwen2.5-vl-72b"
[layout]
tp = 8
[weights]
source = "nowhere"
[launch]
device = "ascend"
[output]
dir = "runs/x"
[generation]
max_new_tokens = 16
"""
# Refuses the heavy modules, runs qvl, and says which heavy modules were loaded after all.
BLOCKED = """
import sys
HEAVY = ("mindspore", "torch", "transformers")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(f"{name} is blocked in this test")
        return None
sys.meta_path.insert(0, Blocker())
from qvl_core.cli.app import main
code = main(sys.argv[1:])
assert not [name for name in sys.modules if name.split(".")[0] in HEAVY]
assert "numpy" not in sys.modules, "numpy costs a command more time than all of qvl"
sys.exit(code)
"""


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "a.toml").write_text(RECIPE)
    (folder / "stack").mkdir()
    (folder / "stack" / "inference_qwen2_5_vl_7b.json").write_text('{"tokenizer": {"from_pretrained": "hf-7b"}}')
    command = [sys.executable, "-c", BLOCKED, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("check", "a.toml"),
        ("check", "a.toml", "--format", "json"),
        ("show", "a.toml", "--params"),
        ("schema",),
        ("plan", "a.toml", "--devices", "16"),
        ("plan", "a.toml", "--devices", "16", "--format", "json"),
        ("recipes", "."),
        ("run", "a.toml", "--dry-run"),
        ("migrate", "stack"),
    ],
    ids=" ".join,
)
def test_light_commands_run_without_mindspore_torch_transformers_and_numpy(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = _run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("words", [("convert", "--help"), ("convert", "verify", "--help")], ids=" ".join)
def test_convert_shows_its_help_without_them(tmp_path: Path, words: tuple[str, ...]) -> None:
    pytest.importorskip("qvl_convert", reason="qvl-convert is not installed")
    done = _run(tmp_path, *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("score", "--help"), ("eval", "compare", "--help")], ids=" ".join)
def test_scoring_shows_its_help_without_them(tmp_path: Path, words: tuple[str, ...]) -> None:
    pytest.importorskip("qvl_eval", reason="qvl-eval is not installed")
    done = _run(tmp_path, *words)
    assert done.returncode == 0, done.stderr


def test_the_python_interface_is_lazy() -> None:
    code = (
        "import sys, qvl_core; assert 'pydantic' not in sys.modules; assert qvl_core.__version__; "
        "from qvl_core import load_recipe, load_spec; assert load_spec('qwen2.5-vl-7b').text.num_layers == 28; "
        "assert 'mindspore' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_names_what_it_offers_and_refuses_the_rest() -> None:
    import qvl_core

    assert set(qvl_core.__all__) <= set(dir(qvl_core))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qvl_core.nothing
