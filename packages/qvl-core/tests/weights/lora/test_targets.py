"""Which modules an adapter's configuration means, and with what scale: peft's rules."""

import math
import subprocess
import sys

import pytest
from qvl_core.errors import WeightsError
from qvl_core.weights.lora import merge_transforms, open_adapter, require_fit


def targets(lab, names, ranks=None, naming="new", **config):
    """What an adapter with factors for exactly these weights changes, by name."""
    tensors = {}
    for name in names:
        tensors |= lab.factors([name], (ranks or {}).get(name, 4), naming)
    folder = lab.folder(tensors, name=f"adapter{len(list(lab.root.iterdir()))}", **config)
    return require_fit(open_adapter(folder), lab.spec)


def refused(lab, names, spec=None, **config):
    folder = lab.folder(lab.factors(names), **config)
    with pytest.raises(WeightsError) as caught:
        merge_transforms(open_adapter(folder), spec or lab.spec, dict.fromkeys(lab.shapes, "F32"))
    return str(caught.value)


@pytest.mark.parametrize("naming", ["classic", "new"])
@pytest.mark.parametrize("segment", ["", ".default", ".my-adapter_2"])
def test_both_spellings_and_an_adapters_name_are_read(lab, naming, segment):
    names = lab.names("gate_proj.weight")
    folder = lab.folder(lab.factors(names, naming=naming, segment=segment), target_modules=["gate_proj"])
    assert list(lab.transforms(folder)) == names
    assert {name.split(".")[0] for name in names} == {"visual", "model"}


def test_a_name_means_every_module_that_ends_with_it(lab):
    proj = ["visual.patch_embed.proj.weight", *lab.names("attn.proj.weight")]
    assert list(targets(lab, proj, target_modules=["proj"]).low_rank) == proj
    attention = lab.names("attn.proj.weight")
    assert list(targets(lab, attention, target_modules=["attn.proj"]).low_rank) == attention
    assert "fits no module" in refused(lab, attention, target_modules=["ttn.proj"])


def test_a_pattern_has_to_match_whole_names_in_the_adapters_spelling(lab):
    names = lab.names("q_proj.weight", "v_proj.weight", start="model.")
    pattern = r"^(?!.*visual).*\.(q_proj|v_proj)$"
    assert list(targets(lab, names, target_modules=pattern).low_rank) == names
    first = lab.names("q_proj.weight")[:1]
    assert list(targets(lab, first, naming="classic", target_modules=r"model\.layers\.0\..*q_proj").low_rank) == first
    assert "fits no module" in refused(lab, first, target_modules=r"model\.layers\.0\..*q_proj")


def test_all_linear_leaves_out_head_embedding_and_patches(lab):
    linear = [
        name for name, shape in lab.shapes.items()
        if len(shape) == 2 and name not in ("lm_head.weight", "model.embed_tokens.weight")
    ]  # fmt: skip
    assert list(targets(lab, linear, target_modules="all-linear").low_rank) == linear


def test_excluded_and_saved_modules_are_not_adapted(lab):
    q = lab.names("q_proj.weight")
    assert list(targets(lab, q[1:], target_modules=["q_proj"], exclude_modules=r".*layers\.0\..*").low_rank) == q[1:]
    gate = lab.names("gate_proj.weight", start="model.")
    found = targets(
        lab, gate, target_modules=["gate_proj"], exclude_modules=[f"blocks.{i}.mlp.gate_proj" for i in (0, 1)]
    )
    assert list(found.low_rank) == gate


def test_only_the_layers_asked_for_are_adapted(lab):
    some = [name for name in lab.names("gate_proj.weight") if ".1." in name]
    assert list(targets(lab, some, target_modules=["gate_proj"], layers_to_transform=1).low_rank) == some
    text = [name for name in some if name.startswith("model")]
    options = {"layers_to_transform": [1], "layers_pattern": "layers"}
    assert list(targets(lab, text, target_modules=["gate_proj"], **options).low_rank) == text
    # A module named in full is adapted in whatever layer it is.
    full = lab.names("layers.0.mlp.gate_proj.weight")
    named = ["gate_proj", "model.language_model.layers.0.mlp.gate_proj"]
    assert set(targets(lab, [*full, *text], target_modules=named, **options).low_rank) == {*full, *text}
    every = lab.names("q_proj.weight")
    assert list(targets(lab, every, target_modules=["q_proj"], layers_to_transform=[]).low_rank) == every


def test_scale_is_alpha_over_rank_or_over_its_root(lab):
    q = lab.names("q_proj.weight")
    assert {one.scale for one in targets(lab, q, r=4, lora_alpha=3).low_rank.values()} == {0.75}
    nine = dict.fromkeys(q, 9)
    found = targets(lab, q, nine, r=9, lora_alpha=6, use_rslora=True).low_rank
    assert {one.scale for one in found.values()} == {6 / math.sqrt(9)}


def test_the_first_pattern_that_fits_gives_rank_and_alpha(lab):
    q = lab.names("q_proj.weight")
    found = targets(
        lab, q, {q[0]: 2, q[1]: 3, q[2]: 5}, r=5,
        rank_pattern={r"layers\.0\.self_attn\.q_proj": 2, r".*\.(0|1)\..*": 3, "k_proj": 7},
        alpha_pattern={"1.self_attn.q_proj": 12, "^layers": 100},
    )  # fmt: skip
    assert [one.rank for one in found.low_rank.values()] == [2, 3, 5]
    assert [one.scale for one in found.low_rank.values()] == [4.0, 4.0, 1.6]
    assert found.unused_patterns == ("k_proj", "^layers")
    assert found.contested == ("model.language_model.layers.0.self_attn.q_proj",)


def test_the_patch_embedding_is_adapted_as_a_convolution(lab):
    name = "visual.patch_embed.proj.weight"
    found = targets(lab, [name], target_modules=["patch_embed.proj"]).low_rank[name]
    assert (found.a_shape, found.b_shape) == ((4, 3, 2, 2, 2), (16, 4, 1, 1, 1))


def test_refuses_missing_keys_with_their_count(lab):
    message = refused(lab, lab.names("q_proj.weight"), target_modules=["q_proj", "k_proj", "v_proj"])
    assert "12 keys are missing" in message
    assert "base_model.model.model.language_model.layers.0.self_attn.k_proj.lora_A.weight" in message
    assert "... and 2 more" in message


def test_refuses_keys_that_the_configuration_does_not_ask_for(lab):
    message = refused(lab, lab.names("q_proj.weight", "k_proj.weight"), target_modules=["q_proj"])
    assert "6 keys have no place" in message
    assert "layers.2.self_attn.k_proj.lora_B.weight" in message


def test_refuses_keys_of_a_deeper_model(lab):
    tensors = lab.factors(lab.names("q_proj.weight"))
    extra = {key.replace("layers.2", "layers.35"): array for key, array in tensors.items() if "layers.2" in key}
    folder = lab.folder(tensors | extra)
    with pytest.raises(WeightsError, match="2 keys have no place") as caught:
        lab.transforms(folder)
    assert "layers.35.self_attn.q_proj.lora_A.weight" in str(caught.value)


def test_refuses_wrong_shapes_and_states_both(lab):
    tensors = lab.factors(lab.names("q_proj.weight"))
    key = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors[key] = lab.normal(4, 31)
    with pytest.raises(WeightsError, match="shape") as caught:
        lab.transforms(lab.folder(tensors))
    assert f"{key} has shape [4, 31], it has to have [4, 32]" in str(caught.value)


def test_refuses_another_rank_than_the_configurations(lab):
    message = refused(lab, lab.names("q_proj.weight"), r=8)
    assert "has shape [4, 32], it has to have [8, 32]" in message
    assert "has shape [32, 4], it has to have [32, 8]" in message


@pytest.mark.parametrize("setting", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}])
def test_refuses_to_change_a_tied_embedding_or_head(lab, setting):
    message = refused(lab, lab.names("q_proj.weight"), lab.tied, **setting)
    assert "embedding and head of this model are one tensor" in message


def test_refuses_a_low_rank_update_of_the_embedding(lab):
    message = refused(lab, lab.names("q_proj.weight"), target_modules=["q_proj", "embed_tokens"])
    assert "lora_embedding_A" in message
    assert "merge_and_unload" in message


def test_refuses_an_adapter_that_fits_no_module(lab):
    assert "fits no module" in refused(lab, lab.names("q_proj.weight"), target_modules=["query_key_value"])


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_a_regex_bomb_is_ended_in_time(lab, key, monkeypatch):
    monkeypatch.setattr(
        "qvl_core.weights.lora.patterns.find_matches.__kwdefaults__", {"anywhere": False, "seconds": 1.0}
    )
    message = refused(lab, lab.names("q_proj.weight"), **{key: r"((([a-z_.0-9]+)+)+)+#"})
    assert "take more than 1 s" in message


@pytest.mark.parametrize("pattern", ["(", "(?P<x", "[z-a]", "*", "a{2,1}", "(" * 5000])
def test_refuses_what_is_no_regular_expression(lab, pattern):
    assert "not a regular expression" in refused(lab, lab.names("q_proj.weight"), target_modules=pattern)


def test_patterns_are_tried_under_a_memory_limit_of_our_own_as_well(lab):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from qvl_core.weights.lora.patterns import find_matches\n"
        "print(find_matches(['a+'], ['aa', 'ab']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[frozenset({'aa'})]\n", done.stderr


def test_refuses_a_pattern_without_end(lab):
    message = refused(lab, lab.names("q_proj.weight"), target_modules="a|" * 40_000)
    assert "80,000 characters" in message
