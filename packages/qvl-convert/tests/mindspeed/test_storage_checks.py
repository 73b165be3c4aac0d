"""The checksums that an archive records: a flipped bit is found before the output gets its name."""

import pytest
from qvl_convert.mindspeed.folder import open_mindspeed_folder
from qvl_convert.mindspeed.source import whole_tensors_of_mindspeed
from qvl_convert.mindspeed.storage_checks import check_storages, with_storage_checks
from qvl_convert.plan_hf import plan_hf
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.weights.whole_tensors import open_whole_tensors

PAIR = Layout(vision_stages=(3,), text_stages=(5,), tp=2)
KEY = "text_decoder.decoder.layers.3.self_attention.linear_qkv.weight"


def plan(path, model):
    folder = open_mindspeed_folder(path)
    source = whole_tensors_of_mindspeed(path, folder, model.spec)
    job = plan_hf(source, model.side, kind="import", naming="classic", max_shard_bytes=2**40)
    return with_storage_checks(job, folder)


def flip(path):
    """Flip one bit of one tensor of rank 1."""
    found = open_mindspeed_folder(path).ranks[0, 1].chunks[0][KEY]
    data = bytearray(found.file.read_bytes())
    data[found.start + 5] ^= 16
    found.file.write_bytes(data)


def test_a_whole_folder_passes_and_becomes_the_hf_folder(model, carry_out, tmp_path):
    carry_out(plan(model.mindspeed(layout=PAIR), model), tmp_path / "out")
    model.assert_equal(open_whole_tensors(tmp_path / "out"))


def test_a_flipped_bit_is_found_and_leaves_no_output(untied, carry_out, tmp_path):
    path = untied.mindspeed(layout=PAIR)
    flip(path)
    with pytest.raises(WeightsError, match="is damaged") as error:
        carry_out(plan(path, untied), tmp_path / "out")
    assert KEY in str(error.value)
    assert "mp_rank_01" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_without_checksums_is_taken_as_it_is(untied):
    path = untied.mindspeed(layout=PAIR)
    flip(path)
    for rank in open_mindspeed_folder(path).ranks.values():
        data = rank.path.read_bytes()
        for entry in rank.storages.values():
            sizes = entry.size.to_bytes(4, "little") * 2
            data = data.replace(entry.crc32.to_bytes(4, "little") + sizes, bytes(4) + sizes)
        rank.path.write_bytes(data)
    check_storages(open_mindspeed_folder(path))
