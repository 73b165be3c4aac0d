"""`qvl convert verify` and `qvl convert export`: results, exit codes, and what is left on the disk."""

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from qvl_convert.commands import register
from qvl_core.errors import OutputError, QvlError, WeightsError
from qvl_core.layout import Layout
from qvl_core.weights.hf_folder import open_hf_folder, require_tensors
from typer.testing import CliRunner

TENSOR = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture
def run():
    app = typer.Typer()
    register(app)

    @app.callback()
    def _root() -> None:
        """Keep `convert` a named command."""

    def call(*arguments, **options):
        return CliRunner().invoke(app, ["convert", *map(str, arguments)], **options)

    return call


def test_only_finished_commands_are_listed(run):
    text = run("--help").output
    assert "verify" in text
    assert "export" in text
    assert "reshard" not in text
    assert "merge" not in text


def test_equal_folders_in_different_layouts(run, make, layout):
    result = run("verify", make.hf("hf", naming="new", max_shard_bytes=9_000), make.sharded("sharded", layout))
    assert (result.exit_code, result.output.split(":")[0]) == (0, "equal"), result.output
    assert f"{len(make.arrays)} tensors" in result.output


def test_any_two_layouts_are_equal(run, make, layout):
    other = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
    assert run("verify", make.sharded("a", layout), make.sharded("b", other)).exit_code == 0


def test_the_first_difference_is_named_with_place_and_both_values(run, make, layout):
    changed = make.arrays[TENSOR].copy()
    changed[5, 7] ^= 1
    left, right = make.sharded("sharded", layout), make.hf("hf", changes={TENSOR: changed})
    result = run("verify", left, right)
    assert result.exit_code == 1
    bits = [f"0x{int(array[5, 7]):0{2 * array.itemsize}x}" for array in (make.arrays[TENSOR], changed)]
    assert f"{TENSOR}: differs first at [5, 7]" in result.output
    assert all(text in result.output for text in bits)


def test_values_are_shown_as_numbers(run, make):
    one, other = make.arrays[TENSOR].copy(), make.arrays[TENSOR].copy()
    ones = {"BF16": (0x3F80, 0xC000), "F32": (0x3F800000, 0xC0000000)}[make.kinds[TENSOR]]
    one[0, 1], other[0, 1] = ones
    result = run("verify", make.hf("a", changes={TENSOR: one}), make.hf("b", changes={TENSOR: other}))
    assert f"1.0 (0x{ones[0]:x}) in A, -2.0 (0x{ones[1]:x}) in B" in result.output


def test_signed_zero_counts_as_a_difference_and_equal_nan_does_not(run, make):
    name = "model.norm.weight"
    kind = make.kinds[name]
    sign = {"BF16": 0x8000, "F32": 0x80000000}[kind]
    plus = np.zeros_like(make.arrays[name])
    minus = plus.copy()
    minus[2] = sign
    assert run("verify", make.hf("a", changes={name: plus}), make.hf("b", changes={name: minus})).exit_code == 1
    nan = plus + type(sign)(0)
    nan[:] = {"BF16": 0x7FC1, "F32": 0x7FC00001}[kind]
    assert run("verify", make.hf("c", changes={name: nan}), make.hf("d", changes={name: nan})).exit_code == 0


def test_another_dtype_is_a_difference(run, make):
    left = make.hf("a")
    make.kinds = dict.fromkeys(make.kinds, "F32")
    make.arrays = {name: array.astype(np.uint32) for name, array in make.arrays.items()}
    result = run("verify", left, make.hf("b"))
    assert result.exit_code == 1
    assert "is BF16 in A, F32 in B" in result.output


def test_configs_that_differ_are_noted(run, make):
    left, right = make.hf("a"), make.hf("b")
    config = json.loads((right / "config.json").read_text())
    (right / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    result = run("verify", left, right)
    assert result.exit_code == 0
    assert "text.rope_theta: 1000000.0, found 500000.0" in result.stderr


def test_folders_that_cannot_be_read_are_wrong_input(run, make, tmp_path):
    for path in (tmp_path / "absent", make.side):
        error = run("verify", make.hf(f"hf-{path.name}"), path).exception
        assert isinstance(error, WeightsError)
        assert error.exit_code == 2


@pytest.mark.parametrize("naming", ["classic", "new"])
def test_export_gives_the_bits_that_were_there(run, make, layout, naming, tmp_path):
    source, out = make.sharded("sharded", layout), tmp_path / "out"
    result = run(
        *("export", "--sharded", source, "--hf-files", make.side, "--out", out),
        *("--naming", naming, "--max-shard-gib", "0.001"),
    )
    assert result.exit_code == 0, result.exception
    assert f"{len(make.arrays)} tensors" in result.output
    folder = open_hf_folder(out)
    assert folder.naming == naming
    require_tensors(folder, make.spec)
    assert (out / "tokenizer.json").exists()
    assert not (out / "manifest.json").exists()
    assert run("verify", source, out).exit_code == 0
    assert run("verify", make.hf("original"), out).exit_code == 0


def test_export_takes_the_side_files_of_the_sharded_folder_by_default(run, make, layout, tmp_path):
    source = make.sharded("sharded", layout)
    (source / "state.json").write_text("{}")
    (source / "optimizer-pp000-tt000.safetensors").write_bytes(b"not read")
    assert run("export", "--sharded", source, "--out", tmp_path / "out").exit_code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors"}


def test_export_states_the_dtype_of_the_weights(run, make, tmp_path):
    config = json.loads((make.side / "config.json").read_text())
    nested = {**config, "torch_dtype": "bfloat16", "vision_config": {**config["vision_config"], "dtype": "float16"}}
    (make.side / "config.json").write_text(json.dumps(nested))
    layout = Layout(vision_stages=(2,), text_stages=(3,))
    # Of mixed weights no single dtype is true: the file stays as it was.
    assert run("export", "--sharded", make.sharded("mixed", layout), "--out", tmp_path / "same").exit_code == 0
    assert (tmp_path / "same" / "config.json").read_bytes() == (make.side / "config.json").read_bytes()
    make.kinds = dict.fromkeys(make.kinds, "F32")
    make.arrays = {name: array.astype(np.uint32) for name, array in make.arrays.items()}
    assert run("export", "--sharded", make.sharded("single", layout), "--out", tmp_path / "out").exit_code == 0
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (found["torch_dtype"], found["vision_config"]["dtype"]) == ("float32", "float32")
    assert found["hidden_size"] == config["hidden_size"]


def test_export_of_a_damaged_folder_leaves_nothing(run, make, tmp_path):
    source = make.sharded("sharded", Layout(vision_stages=(2,), text_stages=(3,), tp=2))
    file = sorted(source.glob("rank-*"))[1]
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    error = run("export", "--sharded", source, "--out", tmp_path / "out").exception
    assert isinstance(error, WeightsError)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if ".tmp-" in path.name]


def test_export_refuses_files_of_another_model_and_a_taken_target(run, make, tmp_path):
    source = make.sharded("sharded", Layout(vision_stages=(2,), text_stages=(3,)))
    config = json.loads((make.side / "config.json").read_text())
    (make.side / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    arguments = ("export", "--sharded", source, "--hf-files", make.side, "--out")
    error = run(*arguments, tmp_path / "out").exception
    assert isinstance(error, WeightsError)
    assert "text.rope_theta: 1000000.0, found 500000.0" in str(error)
    assert not (tmp_path / "out").exists()
    assert isinstance(run(*arguments, source).exception, OutputError)
    assert (source / "manifest.json").exists()


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "1e308"])
def test_export_refuses_a_file_size_that_is_none(run, make, tmp_path, size):
    folder = make.hf("hf")
    result = run("export", "--sharded", folder, "--out", tmp_path / "out", "--max-shard-gib", size)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_a_target(run, make):
    source = make.sharded("sharded", Layout(vision_stages=(2,), text_stages=(3,)))
    link = source.parent / "link"
    link.symlink_to(source)
    for target in (source, link, source / ".." / "sharded"):
        error = run("export", "--sharded", source, "--out", target).exception
        assert isinstance(error, QvlError)
        assert error.exit_code == 2
    assert len(list(source.glob("rank-*"))) == 1


def test_commands_import_nothing_heavy():
    code = (
        "import sys, qvl_convert.commands; "
        "heavy = {'numpy', 'mindspore', 'torch', 'transformers', 'safetensors'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
