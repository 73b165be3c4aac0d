"""Classic and new spelling of tensor names are inverses of each other."""

import pytest
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.weights.names import naming_of, spell, to_classic, to_new


@pytest.mark.parametrize(
    ("classic", "new"),
    [
        ("visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("model.norm.weight", "model.language_model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_spellings(classic, new):
    assert (to_new(classic), to_classic(new)) == (new, classic)
    assert (to_new(new), to_classic(classic)) == (new, classic)


def test_every_name_of_the_family_makes_the_round_trip():
    names = [row.name for row in parameter_table(load_spec("qwen2.5-vl-7b"))]
    new = [spell(name, "new") for name in names]
    assert len(set(new)) == len(names)
    assert [spell(name, "classic") for name in new] == names
    assert (naming_of(names), naming_of(new)) == ("classic", "new")
