"""Adapters: ours in PEFT, and training with them beside PEFT and torch on the same weights and the same start.

fp32 on both sides. Logits and gradients are compared as in `test_model.py`; losses of an AdamW run as closely, for few
steps: what rounding makes of the moments grows from step to step.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hf_models import SPECS, Inputs, hf_model, hf_name, prompt_inputs, random_weights
from numpy.typing import NDArray
from parity_report import ParityReport
from qvl_convert.lora import plan_merge
from qvl_convert.run_job import run_job
from qvl_core.batch import IGNORE, Batch
from qvl_core.layout import Layout
from qvl_core.lora_table import TARGETS, Lora, adapter_table
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.model.initialize import initial_factor
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.stage import build_stage
from qvl_core.params import Component
from qvl_core.specs import to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.peft_writer import WEIGHTS_FILE, write_peft_folder
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.tensor_io import read_tensor, tensor_from_array
from qvl_core.weights.whole_tensors import open_whole_tensors
from qvl_train.optimizer import AdamW, AdamWSettings
from qvl_train.step import TrainStep
from sharded_folders import write_sharded

LOGIT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
STEPS, RATE = 3, 1e-3
TIED, UNTIED = "tied, two full blocks", "one kv head, untied, odd vision heads"
Factors = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[ParityReport]:
    found = ParityReport(f"lora training, peft {peft.__version__}")
    yield found
    print(f"\n{found.summary()}")
    found.write()


def settings(*components: Component) -> Lora:
    targets = tuple(dict.fromkeys(name for component in components for name in TARGETS[component]))
    return Lora(rank=4, alpha=6.0, dropout=0.0, components=components, targets=targets)


CASES = {
    "text": (TIED, settings("text")),
    "vision": (UNTIED, settings("vision")),
    "merger": (TIED, settings("merger")),
    "everything": (UNTIED, settings("vision", "merger", "text")),
    "attention of text and vision": (
        TIED,
        Lora(
            rank=2, alpha=4.0, dropout=0.0, components=("text", "vision"), targets=("q_proj", "o_proj", "qkv", "proj")
        ),
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


def lively_factors(case: str) -> Factors:
    name, lora = CASES[case]
    random = np.random.default_rng(5)
    return {row.name: 0.1 * random.standard_normal(row.shape, np.float32) for row in adapter_table(SPECS[name], lora)}


def our_model(case: str, factors: Factors) -> Qwen25VL:
    name, lora = CASES[case]
    spec = SPECS[name]
    world = SingleWorld(Layout.single(spec))
    return build_stage(spec, world, [*random_weights(spec), *factors.items()], lora=lora)


def write_adapter(case: str, factors: Factors, folder: Path) -> Path:
    """Write what the end of a run writes: a checkpoint of adapters, and its PEFT folder."""
    name, lora = CASES[case]
    folder.mkdir()
    write_sharded(folder, SPECS[name], Layout.single(SPECS[name]), factors, lora=lora)
    out = folder.with_name("adapter")
    write_peft_folder(open_whole_tensors(folder), out, base="")
    return out


def their_model(case: str, adapter: Path, *, trains: bool = False) -> Any:
    name, _ = CASES[case]
    base = hf_model(SPECS[name], dict(random_weights(SPECS[name])))
    return peft.PeftModel.from_pretrained(base, adapter, is_trainable=trains)


def their_gradients(model: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for key, value in model.named_parameters():
        if value.requires_grad:
            yield key.removeprefix("base_model.model.").replace(".default.", "."), value.grad.numpy()


@every_case
def test_peft_loads_our_adapter_and_gives_our_logits(case: str, tmp_path: Path, report: ParityReport) -> None:
    name, _ = CASES[case]
    inputs = prompt_inputs(SPECS[name], "one image")
    factors = lively_factors(case)
    with torch.no_grad():
        theirs = their_model(case, write_adapter(case, factors, tmp_path / "run")).eval()(**inputs.for_hf()).logits
        base = hf_model(SPECS[name], dict(random_weights(SPECS[name])))(**inputs.for_hf()).logits
    ours = our_model(case, factors)(**inputs.arrays).asnumpy()
    difference = float(np.abs(ours - theirs.numpy()).max())
    report.record("logits of our adapter in peft, largest difference", case, difference)
    assert difference <= LOGIT_TOLERANCE
    assert float((base - theirs).abs().max()) > 100 * LOGIT_TOLERANCE


@every_case
def test_our_file_has_the_keys_and_shapes_that_peft_saves(case: str, tmp_path: Path) -> None:
    adapter = write_adapter(case, lively_factors(case), tmp_path / "run")
    their_model(case, adapter).save_pretrained(tmp_path / "again")
    ours, theirs = (read_header(folder / WEIGHTS_FILE).tensors for folder in (adapter, tmp_path / "again"))
    assert {key: entry.shape for key, entry in ours.items()} == {key: entry.shape for key, entry in theirs.items()}
    assert all((read_tensor(entry) == read_tensor(theirs[key])).all() for key, entry in ours.items())


@every_case
def test_training_goes_as_in_peft_and_torch(case: str, tmp_path: Path, report: ParityReport) -> None:
    name, lora = CASES[case]
    spec = SPECS[name]
    start = {row.name: initial_factor(row, 3) for row in adapter_table(spec, lora)}
    inputs = prompt_inputs(spec, "one image")
    model = their_model(case, write_adapter(case, start, tmp_path / "run"), trains=True)
    theirs = list(_train_theirs(model, inputs))
    ours = list(_train_ours(our_model(case, start), lora, inputs))
    losses = [abs(one[0] - other[0]) / other[0] for one, other in zip(ours, theirs, strict=True)]
    report.record("loss of adapter training, largest relative difference", case, max(losses))
    assert max(losses) <= LOSS_TOLERANCE
    assert theirs[-1][0] < theirs[0][0] - 100 * LOSS_TOLERANCE
    worst = 0.0
    for (_, found), (_, wanted) in zip(ours, theirs, strict=True):
        assert {hf_name(key) for key in found} == set(wanted)
        for key, gradient in found.items():
            expected = wanted[hf_name(key)]
            # B is zero at first, and so is the gradient of A.
            scale = max(float(np.linalg.norm(expected)), 1e-12)
            worst = max(worst, float(np.linalg.norm(gradient - expected)) / scale)
    report.record("gradients of adapters, largest relative difference", case, worst)
    assert worst <= GRADIENT_TOLERANCE


def _train_theirs(model: Any, inputs: Inputs) -> Iterator[tuple[float, Factors]]:
    arguments = inputs.for_hf()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**arguments, labels=arguments["input_ids"]).loss
        loss.backward()
        yield float(loss), {name: array.copy() for name, array in their_gradients(model)}
        optimizer.step()


def _train_ours(model: Qwen25VL, lora: Lora, inputs: Inputs) -> Iterator[tuple[float, Factors]]:
    world = SingleWorld(Layout.single(model.spec))
    pipeline = Pipeline(model, world)
    parameters = {parameter.name: parameter for parameter in pipeline.trainable}
    values = AdamWSettings(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, lr_scale={})
    optimizer = AdamW(parameters, adapter_table(model.spec, lora), values, world.data)
    kept: list[Factors] = []
    update = optimizer.update

    def keep(gradients: Any, **options: Any) -> None:
        kept.append({name: value.asnumpy() for name, value in zip(optimizer.names, gradients, strict=True)})
        update(gradients, **options)

    optimizer.update = keep  # type: ignore[method-assign]
    step = TrainStep(pipeline, optimizer, world, model.spec, clip_norm=0.0, reduction="token", lora=lora)
    batch = _labelled(model, inputs)
    for number in range(1, STEPS + 1):
        result = step([batch], lr=RATE, step=number)
        yield result.loss, kept[-1]


def _labelled(model: Qwen25VL, inputs: Inputs) -> Batch:
    arrays: dict[str, Any] = dict(inputs.arrays)
    batch = flatten_prompt(model.spec, arrays.pop("input_ids"), **arrays).batch
    return dataclasses.replace(batch, labels=np.append(batch.input_ids[1:], IGNORE).astype(np.int32))


@every_case
def test_the_merged_folder_gives_the_logits_of_the_adapted_model(
    case: str, tmp_path: Path, report: ParityReport
) -> None:
    name, _ = CASES[case]
    spec, factors = SPECS[name], lively_factors(case)
    side = tmp_path / "side"
    side.mkdir()
    (side / "config.json").write_text(json.dumps(to_hf_config(spec)))
    base = tmp_path / "base"
    write_hf_folder([tensor_from_array(*item) for item in random_weights(spec)], side, base)
    adapter = write_adapter(case, factors, tmp_path / "run")
    job, _ = plan_merge(open_whole_tensors(base), base, adapter, naming="classic", max_shard_bytes=10**9)
    run_job(job, tmp_path / "merged", overwrite=False, advance=lambda _: None)
    inputs = prompt_inputs(spec, "one image")
    adapted = our_model(case, factors)(**inputs.arrays).asnumpy()
    merged = Qwen25VL.from_pretrained(tmp_path / "merged")(**inputs.arrays).asnumpy()
    plain = Qwen25VL.from_pretrained(base)(**inputs.arrays).asnumpy()
    difference = float(np.abs(adapted - merged).max())
    report.record("logits of adapter and merged folder, largest difference", case, difference)
    assert difference <= LOGIT_TOLERANCE
    assert float(np.abs(adapted - plain).max()) > 100 * LOGIT_TOLERANCE


def test_adapters_begin_with_pefts_distribution() -> None:
    name, lora = CASES["text"]
    model = peft.get_peft_model(
        hf_model(SPECS[name], dict(random_weights(SPECS[name]))),
        peft.LoraConfig(r=64, target_modules=r".*language_model.*\.down_proj"),
    )
    theirs = next(value for key, value in model.named_parameters() if "lora_A" in key).detach().numpy()
    wide = dataclasses.replace(lora, rank=64, targets=("down_proj",))
    ours = initial_factor(adapter_table(SPECS[name], wide)[0], 1)
    assert ours.shape == theirs.shape
    for statistic in (np.std, np.max, np.min):
        # 12288 draws: the spread of these is below one per cent of the bound.
        assert statistic(ours) == pytest.approx(float(statistic(theirs)), abs=0.03 * float(theirs.max()))
