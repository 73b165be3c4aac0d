"""Work of stages: forward adds up to the table's weights, backward follows what trains and what is recomputed."""

from dataclasses import replace
from math import prod

import pytest
from qvl_core.layout import Layout
from qvl_core.layout_rules import derive_stages
from qvl_core.parallel.stage_work import MicroBatch, StageWork, stage_work
from qvl_core.params import Component, parameter_table
from qvl_core.specs.load import load_spec, shipped_names

BATCH = MicroBatch(sequences=(500, 100), frames=(1024, 256), labels=50)
SEVEN = load_spec("qwen2.5-vl-7b")
FOUR = Layout(pp=4, vision_stages=(32, 0, 0, 0), text_stages=(1, 10, 10, 7))
SPREAD = Layout(pp=4, vision_stages=(30, 2, 0, 0), text_stages=(0, 11, 10, 7))


def layout_of(name: str, pp: int) -> Layout:
    vision, text = derive_stages(load_spec(name), pp)
    return Layout(pp=pp, vision_stages=vision, text_stages=text)


def total(work: tuple[StageWork, ...]) -> tuple[int, int]:
    return sum(stage.forward for stage in work), sum(stage.backward for stage in work)


@pytest.mark.parametrize("name", shipped_names())
def test_every_matrix_of_the_table_is_multiplied_once_for_each_of_its_rows(name: str) -> None:
    spec = load_spec(name)
    # So many rows that attention, which has no weights, is counted apart: without frames and sequences it is 0.
    rows = {"vision": 1280, "merger": 320, "text": 600}
    expected = 0
    for parameter in parameter_table(spec):
        if len(parameter.shape) < 2 or parameter.name == "model.embed_tokens.weight":
            continue
        expected += prod(parameter.shape) * (50 if parameter.name == "lm_head.weight" else rows[parameter.component])
    if spec.text.tie_word_embeddings:
        expected += 50 * spec.text.vocab_size * spec.text.hidden_size
    forward = stage_work(spec, Layout.single(spec), BATCH)[0].forward
    heads = spec.text.num_heads * spec.text.head_dim
    attention = spec.text.num_layers * (500**2 + 100**2) * heads
    window = (spec.vision.window_size // spec.vision.patch_size) ** 2
    for layer in range(spec.vision.depth):
        whole = layer in spec.vision.full_attention_blocks
        attention += sum(2 * frame * (frame if whole else window) * spec.vision.hidden_size for frame in BATCH.frames)
    assert forward == expected + attention


def test_how_the_model_is_cut_does_not_change_the_work() -> None:
    single = total(stage_work(SEVEN, Layout.single(SEVEN), BATCH))
    for layout in (FOUR, SPREAD, layout_of("qwen2.5-vl-7b", 7)):
        assert total(stage_work(SEVEN, layout, BATCH, recompute_tape=False)) == single


def test_backward_of_everything_is_twice_its_forward() -> None:
    for stage in stage_work(SEVEN, FOUR, BATCH, recompute_tape=False):
        assert stage.backward == 2 * stage.forward


def test_the_recompute_tape_adds_a_forward_on_every_stage_but_the_last() -> None:
    *others, last = stage_work(SEVEN, FOUR, BATCH)
    assert all(stage.backward == 3 * stage.forward for stage in others)
    assert last.backward == 2 * last.forward


def test_a_frozen_stage_has_no_backward_and_a_frozen_part_of_a_stage_adds_none() -> None:
    frozen: tuple[Component, ...] = ("vision", "merger")
    assert stage_work(SEVEN, SPREAD, BATCH, freeze=frozen)[0].backward == 0
    text_only = replace(BATCH, frames=())
    # Of a stage that holds both, only the text part has a backward: the same as that of a batch without images.
    for layout in (FOUR, SPREAD):
        with_images = stage_work(SEVEN, layout, BATCH, freeze=frozen, recompute_tape=False)
        without = stage_work(SEVEN, layout, text_only, recompute_tape=False)
        assert [stage.backward for stage in with_images] == [stage.backward for stage in without]
        assert with_images[0].forward > without[0].forward


def test_the_tape_runs_neither_frozen_vision_again_nor_a_stage_without_a_backward() -> None:
    frozen: tuple[Component, ...] = ("vision", "merger")
    for layout in (FOUR, SPREAD):
        tape = stage_work(SEVEN, layout, BATCH, freeze=frozen)
        kept = stage_work(SEVEN, layout, BATCH, freeze=frozen, recompute_tape=False)
        again = [stage.backward - other.backward for stage, other in zip(tape, kept, strict=True)]
        wanted = [stage.forward for stage in stage_work(SEVEN, layout, replace(BATCH, frames=()), freeze=frozen)]
        wanted[-1] = 0
        assert again == wanted


def test_the_tape_runs_frozen_vision_again_where_the_merger_trains() -> None:
    tape = stage_work(SEVEN, FOUR, BATCH, freeze=("vision",))
    kept = stage_work(SEVEN, FOUR, BATCH, freeze=("vision",), recompute_tape=False)
    assert tape[0].backward - kept[0].backward == kept[0].forward


def test_frozen_parts_after_a_trained_one_pass_the_gradient_on() -> None:
    everything = stage_work(SEVEN, FOUR, BATCH, recompute_tape=False)
    vision_only = stage_work(SEVEN, FOUR, BATCH, freeze=("merger", "text"), recompute_tape=False)
    attention = 10 * (500**2 + 100**2) * SEVEN.text.num_heads * SEVEN.text.head_dim
    linear = everything[1].forward - attention
    assert everything[1].backward == 2 * linear + 2 * attention
    assert vision_only[1].backward == linear + 2 * attention


def test_recomputed_layers_run_once_more_and_the_output_head_does_not() -> None:
    plain = stage_work(SEVEN, FOUR, BATCH)
    recomputed = stage_work(SEVEN, FOUR, BATCH, recompute=("text",))
    assert recomputed[1].backward == plain[1].backward + plain[1].forward
    head = 50 * SEVEN.text.vocab_size * SEVEN.text.hidden_size
    assert recomputed[3].backward == plain[3].backward + plain[3].forward - head


def test_recompute_of_what_has_no_backward_costs_nothing() -> None:
    frozen: tuple[Component, ...] = ("vision", "merger")
    assert stage_work(SEVEN, FOUR, BATCH, freeze=frozen, recompute=("vision",)) == stage_work(
        SEVEN, FOUR, BATCH, freeze=frozen
    )


def test_a_batch_without_images_and_labels_leaves_the_text_layers() -> None:
    work = stage_work(SEVEN, SPREAD, MicroBatch(sequences=(10,), frames=(), labels=0))
    assert work[0] == StageWork(forward=0, backward=0)
    assert work[2].forward * 7 == work[3].forward * 10
