"""The layouts of the shipped fine-tuning recipes train like a single process: true depth and stage lists, less width.

Real processes over MPI, fp32 on CPU, three steps: loss and gradients of the first within 1e-5, losses within 1e-4.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from comparison import CURVE_LIMIT, judge
from launching import Outcomes, run_cases
from qvl_core.geometry import vision_plan
from qvl_core.layout_rules import check_layout
from shipped_batches import micro_batches
from shipped_cases import MOST_PROCESSES, RECIPES, STEPS, TRAINED, shipped_case, shipped_recipe
from shipped_work import reference_case, reference_path
from specs import SPECS

# 80 layers are some 3000 operations a micro batch and direction; on a busy machine a minute each.
_CASE_LIMIT_S = 1200.0

every_recipe = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder for what the single processes find."""
    return tmp_path_factory.mktemp("shipped")


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, references: Path, say: Callable[[str], None]) -> Outcomes:
    """Train the recipes that the chosen tests ask for: single processes first, then all layouts in one start."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    chosen = [name for name in TRAINED if any(f"[{name}]" in item.name for item in items)]
    cases = [shipped_case(name) for name in chosen]
    singles = [reference_case(case) for case in cases]
    options = {"work": "shipped_work", "references": references, "case_limit_s": _CASE_LIMIT_S, "say": say}
    single = run_cases(singles, references / "single", processes=min(2, len(cases)), **options)
    assert not single.failures, "\n".join(single.failures.values())
    say(f"single processes done: {seconds(single)}")
    found = run_cases(cases, references / "ranks", processes=max(case.world_size for case in cases), **options)
    say(f"shipped layouts done: {seconds(found)}")
    return found


@every_recipe
def test_trains_like_a_single_process(
    name: str, trained: Outcomes, references: Path, say: Callable[[str], None]
) -> None:
    case = shipped_case(name)
    assert case.name in trained.results, trained.failures.get(case.name, "it is not known why")
    verdict = judge(case, trained.results[case.name], found_by_one(references, name))
    say(f"{name}: {str(verdict).splitlines()[0]}")
    assert not verdict.failures, str(verdict)


@every_recipe
def test_the_loss_falls_by_far_more_than_the_tolerance(name: str, trained: Outcomes, references: Path) -> None:
    # Equal losses of an optimizer that does nothing would prove nothing. Steps 2 and 3 have the same samples.
    losses = found_by_one(references, name)["losses"]
    assert len(losses) == STEPS == 3
    assert losses[2] < losses[1] * (1 - 100 * CURVE_LIMIT)


@every_recipe
def test_case_is_the_recipe_but_for_widths_and_replicas(name: str) -> None:
    recipe, case = shipped_recipe(name), shipped_case(name)
    layout, true, narrow = recipe.parallel, recipe.spec, SPECS[name]
    assert (case.tp, case.pp) == (layout.tp, layout.pp)
    assert (case.vision_stages, case.text_stages) == (layout.vision_stages, layout.text_stages)
    assert case.freeze == recipe.model.freeze
    assert case.zero1 == recipe.layout.zero1
    assert case.dp == layout.dp or case.world_size == MOST_PROCESSES < layout.world_size
    assert case.accumulation > case.pp
    assert narrow.vision.depth == true.vision.depth
    assert narrow.text.num_layers == true.text.num_layers
    assert narrow.text.tie_word_embeddings == true.text.tie_word_embeddings
    assert narrow.text.num_heads * true.text.num_kv_heads == true.text.num_heads * narrow.text.num_kv_heads
    assert narrow.text.num_kv_heads // case.tp > 1
    for key in ("full_attention_blocks", "window_size", "patch_size", "spatial_merge_size", "tokens_per_second"):
        assert getattr(narrow.vision, key) == getattr(true.vision, key), key
    assert check_layout(narrow, case.layout) == []


@every_recipe
def test_samples_take_both_kinds_of_attention_and_every_kind_of_medium(name: str) -> None:
    case = shipped_case(name)
    spec = SPECS[name]
    assert 0 < len(spec.vision.full_attention_blocks) < spec.vision.depth
    batches = micro_batches(spec, case.mix, case.micro_batches, seed=0)
    plans = [vision_plan(batch.grids, spec.vision) for batch in batches if len(batch.grids)]
    assert any(len(plan.window_lengths) > len(plan.frame_lengths) for plan in plans)
    assert any(len(batch.grids) > 1 for batch in batches)
    assert any(len(batch.grids) == 0 for batch in batches)
    assert any((batch.input_ids == spec.tokens.image).any() for batch in batches)
    assert any((batch.input_ids == spec.tokens.video).any() for batch in batches) == ("video" in name)
    assert len({batch.tokens for batch in batches}) > 1


def test_every_shipped_layout_for_training_is_here() -> None:
    found = {path.stem for path in RECIPES.glob("*_sft.toml") if not path.stem.startswith("tiny_")}
    proven = {layout_of(name) for name in TRAINED}
    assert {name for name in found if layout_of(name) not in proven} == set()
    assert found - set(TRAINED) == {"7b_lora_sft"}


def layout_of(name: str) -> tuple[object, ...]:
    """Give what has to be the same for a proof to hold for two recipes."""
    recipe = shipped_recipe(name)
    return recipe.spec, recipe.parallel, recipe.layout.zero1, recipe.layout.recompute, recipe.model.freeze


def found_by_one(references: Path, name: str) -> dict[str, list[float]]:
    """Read what the single process of a recipe reported."""
    return json.loads(reference_path(references, name).with_suffix(".json").read_text(encoding="utf-8"))


def seconds(outcomes: Outcomes) -> str:
    """Say how long each case took."""
    return ", ".join(
        f"{name.partition('-')[0]} {ranks[0]['seconds']:.0f} s" for name, ranks in outcomes.results.items()
    )
