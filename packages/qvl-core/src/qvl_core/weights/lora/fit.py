"""Whether an adapter fits a model: its file holds exactly the tensors that its configuration asks for there."""

from __future__ import annotations

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.params import EMBEDDING, LM_HEAD
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.lora.adapter import Adapter, listed
from qvl_core.weights.lora.adapter_config import CONFIG_FILE, MERGE_WITH_PEFT
from qvl_core.weights.lora.patterns import PatternError
from qvl_core.weights.lora.targets import Targets, find_targets
from qvl_core.weights.safetensors_header import TensorEntry


def require_fit(adapter: Adapter, spec: ModelSpec) -> Targets:
    """Give what the adapter changes. Raises WeightsError unless the adapter holds exactly that, in the right shapes."""
    config_file = printable(str(adapter.path / CONFIG_FILE))
    try:
        targets = find_targets(adapter.config, spec, adapter.naming)
    except PatternError as error:
        message = printable(str(error))
        raise WeightsError(Problem(where=config_file, message=message, fix=MERGE_WITH_PEFT)) from None
    if problems := [*_unsupported(adapter, spec, targets, config_file), *_differences(adapter, spec, targets)]:
        raise WeightsError(problems)
    return targets


def _unsupported(adapter: Adapter, spec: ModelSpec, targets: Targets, where: str) -> list[Problem]:
    problems = []
    both = {*targets.low_rank, *targets.replaced} & {EMBEDDING, LM_HEAD}
    if both and spec.text.tie_word_embeddings:
        message = (
            f"changes {' and '.join(sorted(both))}, but embedding and head of this model are one tensor: a change for "
            "the one would change the other as well"
        )
        problems.append(Problem(where=where, message=message, fix=MERGE_WITH_PEFT))
    elif EMBEDDING in targets.low_rank:
        message = f"adapts {EMBEDDING}: low-rank updates of the embedding (lora_embedding_A) are not merged here"
        problems.append(Problem(where=where, key="target_modules", message=message, fix=MERGE_WITH_PEFT))
    if not targets.low_rank and not targets.replaced:
        message = f"fits no module of {spec.name}, in the names that the adapter's keys have"
        fix = "is this an adapter of this model? compare base_model_name_or_path with the base"
        problems.append(Problem(where=where, key="target_modules", message=message, fix=fix))
    return problems


def _differences(adapter: Adapter, spec: ModelSpec, targets: Targets) -> list[Problem]:
    """List what is missing, extra and of another shape in the adapter's file, by what its configuration asks for."""
    wanted: dict[str, tuple[int, ...]] = {}
    found: dict[str, TensorEntry] = {}
    for name, one in targets.low_rank.items():
        wanted[adapter.key_of(name, "lora_A.weight")] = one.a_shape
        wanted[adapter.key_of(name, "lora_B.weight")] = one.b_shape
        # PEFT saves the base weight as well where it adapts the head; not every version does.
        if name in adapter.bases:
            wanted[adapter.key_of(name, "base_layer.weight")] = (one.b_shape[0], *one.a_shape[1:])
    wanted |= {adapter.key_of_whole(name): shape for name, shape in targets.replaced.items()}
    found |= {adapter.key_of(name, "lora_A.weight"): entry for name, entry in adapter.factors_a.items()}
    found |= {adapter.key_of(name, "lora_B.weight"): entry for name, entry in adapter.factors_b.items()}
    found |= {adapter.key_of_whole(name): entry for name, entry in adapter.whole.items()}
    found |= {adapter.key_of(name, "base_layer.weight"): entry for name, entry in adapter.bases.items()}
    shapes = [
        f"{found[key].name} has shape {list(found[key].shape)}, it has to have {list(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key].shape != shape
    ]
    where = printable(str(adapter.inputs[-1].path))
    model = f"{spec.name} with this {CONFIG_FILE}"
    fix = f"is this the base that the adapter was trained on? compare it with base_model_name_or_path in {CONFIG_FILE}"
    return [
        *listed(where, f"keys are missing for {model}", [key for key in wanted if key not in found], fix),
        *listed(where, f"keys have no place in {model}", [found[key].name for key in found if key not in wanted], fix),
        *listed(where, f"tensors have the wrong shape for {model}", shapes, fix),
    ]
