"""qvl-convert works where neither mindspore nor torch nor anything else heavy is installed, and asks for none of it."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.tensor_io import tensor_from_array

HEAVY = (
    "mindspore",
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "PIL",
    "av",
    "safetensors",
    "pyarrow",
    "tensorboardX",
)
QUERY = "model.layers.0.self_attn.q_proj.weight"
# Refuses the heavy modules, and runs one command line after the other.
SCRIPT = """
import json, sys
HEAVY = json.loads(sys.argv[1])
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(f"{name} is blocked in this test")
        return None
sys.meta_path.insert(0, Blocker())
from qvl_core.cli.app import main
for words in json.loads(sys.argv[2]):
    code = main(["convert", *words])
    if code:
        sys.exit(f"{words} ended with {code}")
found = {name.split(".")[0] for name in sys.modules} & set(HEAVY)
assert not found, found
"""


@pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])
def test_every_command_works_without_anything_heavy(make, tmp_path):
    make.kinds = dict.fromkeys(make.kinds, "BF16")
    make.arrays = {name: array.astype(np.uint16) for name, array in make.arrays.items()}
    make.arrays[QUERY][:] = 0
    make.hf("hf", naming="new", max_shard_bytes=20_000)
    make.checkpoint("checkpoint", Layout(vision_stages=(2,), text_stages=(3,)))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    module = f"base_model.model.{QUERY.removesuffix('.weight')}"
    tensors = {f"{module}.lora_A.weight": (2, 32), f"{module}.lora_B.weight": (32, 2)}
    ones = [tensor_from_array(name, np.ones(shape, np.float32)) for name, shape in tensors.items()]
    write_safetensors(adapter / "adapter_model.safetensors", ones)
    lines = (
        "import --hf hf --out imported --tp 2 --pp 2 --plan",
        "import --hf hf --out imported --tp 2 --pp 2",
        "reshard --sharded imported --out resharded --tp 4",
        "reshard --sharded checkpoint --out checkpoint-cut --pp 3",
        "export --sharded resharded --out exported",
        "verify hf exported",
        "verify checkpoint checkpoint-cut",
        "export --sharded imported --mindspeed reference",
        "import --mindspeed reference --hf-files hf --out back",
        "verify back hf --json",
        "merge --base hf --adapter adapter --out merged",
    )
    words = json.dumps([line.split() for line in lines])
    command = [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), words]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "merged" / "config.json").exists()


def required(package, seen):
    """Collect the names of what a package needs, directly or not, extras and other platforms left out."""
    try:
        lines = requires(package) or []
    except PackageNotFoundError:
        # Needed by some platform or Python only, or not under this name: it is listed, its own needs are not known.
        return
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-")
        if "extra ==" not in line and name not in seen:
            seen.add(name)
            required(name, seen)


def test_nothing_heavy_is_required_by_any_way():
    seen = set()
    for package in ("qvl-convert", "qvl-core"):
        required(package, seen)
    assert seen >= {"qvl-core", "numpy", "typer", "rich"}
    heavy = {"mindspore", "torch", "transformers", "datasets", "pandas", "pillow", "av", "pyarrow", "peft"}
    assert not seen & heavy
