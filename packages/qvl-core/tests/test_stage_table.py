"""The stage table adds up to the model, on every axis."""

import pytest
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora
from qvl_core.params import parameter_count
from qvl_core.specs import load_spec
from qvl_core.stage_table import layer_range, stage_table

SEVEN = load_spec("qwen2.5-vl-7b")
FOUR_STAGES = Layout(pp=4, vision_stages=(32, 0, 0, 0), text_stages=(1, 10, 10, 7))


def test_layer_ranges_join_up_and_end_at_the_depth() -> None:
    ranges = [layer_range(FOUR_STAGES.text_stages, stage) for stage in range(4)]
    assert ranges == [(0, 1), (1, 11), (11, 21), (21, 28)]


def test_one_stage_holds_the_whole_model() -> None:
    (row,) = stage_table(SEVEN, Layout.single(SEVEN))
    assert row.parameters == row.trainable == row.rank_parameters == parameter_count(SEVEN) == 8_292_166_656
    assert row.rank_bytes == 2 * 8_292_166_656
    assert row.parts == ("patch embedding", "merger", "embedding", "norm", "head")


def test_stages_of_an_untied_model_add_up_to_it() -> None:
    rows = stage_table(SEVEN, FOUR_STAGES)
    assert sum(row.parameters for row in rows) == parameter_count(SEVEN)
    assert [row.parts for row in rows] == [("patch embedding", "merger", "embedding"), (), (), ("norm", "head")]


def test_a_tied_embedding_counts_on_both_of_its_stages() -> None:
    spec = load_spec("qwen2.5-vl-3b")
    rows = stage_table(spec, Layout(pp=2, vision_stages=(32, 0), text_stages=(16, 20)))
    embedding = spec.text.vocab_size * spec.text.hidden_size
    assert sum(row.parameters for row in rows) == parameter_count(spec) + embedding
    assert "embedding" in rows[0].parts
    assert "embedding" in rows[1].parts


def test_tensor_ranks_hold_their_part_and_the_replicated_rest() -> None:
    layout = Layout(tp=4, vision_stages=(32,), text_stages=(28,))
    (row,) = stage_table(SEVEN, layout)
    # Norms, patch embedding and the biases of row-cut weights are whole on every rank.
    assert row.parameters / 4 < row.rank_parameters < row.parameters / 4 * 1.01


def test_frozen_components_do_not_train_and_the_others_do() -> None:
    rows = stage_table(SEVEN, FOUR_STAGES, freeze=("vision", "merger"))
    assert rows[0].trainable < rows[0].parameters
    assert rows[1].trainable == rows[1].parameters
    assert stage_table(SEVEN, FOUR_STAGES, freeze=("vision", "merger", "text"))[2].trainable == 0


def test_adapters_train_alone() -> None:
    lora = Lora(rank=8, alpha=16, dropout=0.0, components=("text",), targets=("q_proj", "k_proj"))
    rows = stage_table(SEVEN, Layout.single(SEVEN), lora=lora)
    text = SEVEN.text
    kv = text.num_kv_heads * text.head_dim
    assert rows[0].trainable == 28 * 8 * ((text.hidden_size * 2) + (text.hidden_size + kv))
    assert rows[0].parameters == parameter_count(SEVEN)


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_bytes_follow_the_dtype(dtype: str, size: int) -> None:
    (row,) = stage_table(SEVEN, Layout.single(SEVEN), dtype=dtype)
    assert row.rank_bytes == size * row.rank_parameters
