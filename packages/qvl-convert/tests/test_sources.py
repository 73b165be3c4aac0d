"""A source is what its command takes, and of the recipe's model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from qvl_convert.sources import open_hf, open_sharded, require_model
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout

SINGLE = Layout(vision_stages=(2,), text_stages=(3,))


def test_a_folder_of_the_other_kind_is_refused_with_the_command_that_takes_it(make):
    hf, sharded = make.hf("hf"), make.sharded("sharded", SINGLE)
    assert (open_hf(hf).kind, open_sharded(sharded).kind) == ("hf", "sharded")
    with pytest.raises(WeightsError, match="is a sharded folder, not an HF one\n  fix: qvl convert reshard --sharded"):
        open_hf(sharded)
    with pytest.raises(WeightsError, match="is an HF folder, not a sharded one\n  fix: qvl convert import --hf"):
        open_sharded(hf)


def test_a_folder_may_have_another_context_length_than_the_recipe_and_nothing_else(make):
    source = open_sharded(make.sharded("sharded", SINGLE))

    def recipe(**changes):
        return SimpleNamespace(spec=replace(source.spec, text=replace(source.spec.text, **changes)))

    require_model(recipe(max_position_embeddings=12345), source)
    with pytest.raises(WeightsError, match=r"which is another:\n  text\.rope_theta: 12345\.0, found"):
        require_model(recipe(rope_theta=12345.0), source)
