"""Merging LoRA adapters: ours against `merge_and_unload` of peft, on adapters that peft made and saved.

Both sides compute in float32, peft `W + (B @ A) * scale` with sums in float32, ours with the product rounded once; with
ranks up to 16 and values of order 1 they differ by a few units in the last place of the product: 2e-6.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hf_models import SPECS, hf_model, hf_name, prompt_inputs, random_weights
from parity_report import ParityReport
from qvl_convert.lora import plan_merge
from qvl_convert.run_job import run_job
from qvl_core.params import parameter_table
from qvl_core.specs import to_hf_config
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.tensor_io import read_tensor, tensor_from_array
from qvl_core.weights.whole_tensors import open_whole_tensors

TOLERANCE = 2e-6
LOGIT_TOLERANCE = 1e-4  # as in test_model.py: fp32 on both sides
TIED, UNTIED = "tied, two full blocks", "one kv head, untied, odd vision heads"
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Settings of LoraConfig. A list of projections reaches the vision blocks' feed-forward layers as well.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "all projections": (TIED, {"r": 8, "lora_alpha": 16, "target_modules": PROJECTIONS}),
    "all linear": (UNTIED, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "text only, by pattern": (
        TIED,
        {"r": 16, "lora_alpha": 32, "target_modules": r"^(?!.*visual).*\.(q_proj|v_proj|down_proj)$"},
    ),
    "vision and merger, by pattern": (
        UNTIED,
        {"r": 8, "target_modules": r".*visual\.(blocks\..*\.(qkv|proj)|merger\.mlp\.[02])"},
    ),
    "patch embedding": (UNTIED, {"r": 6, "lora_alpha": 3, "target_modules": ["proj", "qkv"]}),
    "head": (UNTIED, {"r": 8, "target_modules": ["lm_head", "o_proj"]}),
    "rank stabilised": (TIED, {"r": 9, "lora_alpha": 5, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]}),
    "patterns": (
        TIED,
        {
            "r": 8,
            "lora_alpha": 8,
            "target_modules": PROJECTIONS,
            # In alphabetical order: peft sorts them when it saves, and then takes the first that fits.
            "rank_pattern": {r"^model\.visual\.blocks\.0\.mlp\.up_proj": 2, r"layers\.1\..*": 5, "q_proj": 3},
            "alpha_pattern": {r".*\.layers\.2\..*": 3, r".*\.mlp\.(gate|up)_proj": 24, "k_proj": 1},
        },
    ),
    "some layers": (
        TIED,
        {"target_modules": ["q_proj", "gate_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    ),
    "some layers of both": (TIED, {"target_modules": ["q_proj", "gate_proj", "0"], "layers_to_transform": 1}),
    "excluded": (UNTIED, {"target_modules": PROJECTIONS, "exclude_modules": r".*(visual|layers\.0)\..*"}),
    "excluded by name": (UNTIED, {"target_modules": PROJECTIONS, "exclude_modules": ["mlp.up_proj", "q_proj"]}),
    "modules to save": (
        UNTIED,
        {"target_modules": PROJECTIONS, "modules_to_save": ["merger", "embed_tokens", "lm_head", "layers.1.mlp"]},
    ),
    "orthogonal start": (TIED, {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal", "r": 4}),
    "mica": (TIED, {"target_modules": ["q_proj"], "init_lora_weights": "mica", "r": 4}),
}
ADAPTER_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[ParityReport]:
    found = ParityReport(f"lora, peft {peft.__version__}")
    yield found
    print(f"\n{found.summary()}")
    found.write()


def make_adapter(
    name: str, settings: dict[str, Any], out: Path, dtype: torch.dtype = torch.float32, *, size: float = 0.3
) -> Any:
    """Save an adapter with trained-looking values; give peft's merged model."""
    torch.manual_seed(len(out.name))
    model = peft.get_peft_model(hf_model(SPECS[name], dict(random_weights(SPECS[name]))), peft.LoraConfig(**settings))
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if ".lora_" in key:
                tensor.copy_((torch.randn_like(tensor) * size).to(dtype).to(tensor.dtype))
            elif ".modules_to_save." in key:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    if dtype is not torch.float32:
        model.to(dtype)
    model.save_pretrained(out)
    return model


def write_base(name: str, out: Path) -> Path:
    spec = SPECS[name]
    side = out.with_name(f"{out.name}-side")
    side.mkdir(parents=True)
    (side / "config.json").write_text(json.dumps(to_hf_config(spec)))
    write_hf_folder([tensor_from_array(*item) for item in random_weights(spec)], side, out)
    return out


def merge(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Merge as the command does; give what it reports."""
    job, say = plan_merge(open_whole_tensors(base), base, adapter, naming="classic", max_shard_bytes=10**9)
    run_job(job, out, overwrite=False, advance=lambda _: None)
    return say()[1]["merge"]


@pytest.mark.parametrize("case", CASES)
def test_the_merged_tensors_are_those_of_peft(case: str, tmp_path: Path, report: ParityReport) -> None:
    name, settings = CASES[case]
    spec = SPECS[name]
    model = make_adapter(name, settings, tmp_path / "adapter")
    adapted = sum(isinstance(module, peft.tuners.lora.LoraLayer) for module in model.modules())
    merged = model.merge_and_unload()
    theirs = {key: tensor.detach().numpy() for key, tensor in merged.state_dict().items()}
    base = write_base(name, tmp_path / "base")
    found = merge(base, tmp_path / "adapter", tmp_path / "merged")
    ours = open_hf_folder(tmp_path / "merged").tensors
    before = dict(random_weights(spec))
    largest, changed = 0.0, 0
    for row in parameter_table(spec):
        expected, value = theirs[hf_name(row.name)], read_tensor(ours[row.name])
        largest = max(largest, float(np.abs(value - expected).max()))
        changed += bool((value != before[row.name]).any())
    assert largest <= TOLERANCE
    report.record("merged tensors, largest difference", case, largest)
    assert found["touched_tensors"] == changed == adapted + found["replaced_tensors"]
    assert found["largest_change"] > 0.01


@pytest.mark.parametrize("case", ["all projections", "all linear", "patch embedding", "modules to save"])
def test_logits_of_the_merged_folder_are_those_of_the_adapted_model(
    case: str, tmp_path: Path, report: ParityReport
) -> None:
    name, settings = CASES[case]
    spec = SPECS[name]
    # Small enough that the logits stay of order 1.
    model = make_adapter(name, settings, tmp_path / "adapter", size=0.1).eval()
    merge(write_base(name, tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged")
    weights = {key: read_tensor(entry) for key, entry in open_hf_folder(tmp_path / "merged").tensors.items()}
    inputs = prompt_inputs(spec, "one image").for_hf()
    with torch.no_grad():
        adapted = model(**inputs).logits
        ours = hf_model(spec, weights)(**inputs).logits
        base = hf_model(spec, dict(random_weights(spec)))(**inputs).logits
    difference = float((adapted - ours).abs().max())
    report.record("logits, largest difference", case, difference)
    assert difference <= LOGIT_TOLERANCE
    assert float((base - ours).abs().max()) > 100 * LOGIT_TOLERANCE


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_adapters_saved_in_half_precision_merge_as_their_values(
    kind: str, tmp_path: Path, report: ParityReport
) -> None:
    name, settings = CASES["all projections"]
    make_adapter(name, settings, tmp_path / "adapter", ADAPTER_DTYPES[kind])
    # Loaded into a float32 model, where peft computes in float32: with factors in half precision it rounds the product.
    base = hf_model(SPECS[name], dict(random_weights(SPECS[name])))
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    theirs = {key: tensor.detach().numpy() for key, tensor in merged.state_dict().items()}
    merge(write_base(name, tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged")
    largest = max(
        float(np.abs(read_tensor(entry) - theirs[hf_name(key)]).max())
        for key, entry in open_hf_folder(tmp_path / "merged").tensors.items()
    )
    report.record("merged tensors of half precision adapters, largest difference", kind, largest)
    assert largest <= TOLERANCE


def test_a_renamed_adapter_merges_the_same(tmp_path: Path) -> None:
    name, settings = CASES["all projections"]
    model = peft.get_peft_model(
        hf_model(SPECS[name], dict(random_weights(SPECS[name]))), peft.LoraConfig(**settings), adapter_name="mine"
    )
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if ".lora_B." in key:
                tensor.normal_()
    model.save_pretrained(tmp_path)
    merged = {key: tensor.detach().numpy() for key, tensor in model.merge_and_unload().state_dict().items()}
    merge(write_base(name, tmp_path / "base"), tmp_path / "mine", tmp_path / "merged")
    for key, entry in open_hf_folder(tmp_path / "merged").tensors.items():
        assert np.abs(read_tensor(entry) - merged[hf_name(key)]).max() <= TOLERANCE
