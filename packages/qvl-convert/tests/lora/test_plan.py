"""A merge from folder to folder, as the command does it."""

import numpy as np
import pytest
from qvl_convert.lora import plan_merge
from qvl_convert.run_job import run_job
from qvl_core.errors import InputChangedError, OutputError, WeightsError
from qvl_core.weights.hf_folder import open_hf_folder, require_tensors
from qvl_core.weights.tensor_io import read_raw
from qvl_core.weights.whole_tensors import open_whole_tensors


def plan(base, adapter, **options):
    return plan_merge(
        open_whole_tensors(base), base, adapter, **{"naming": "classic", "max_shard_bytes": 20_000, **options}
    )


def run(job, out):
    return run_job(job, out, overwrite=False, advance=lambda _: None)


@pytest.mark.parametrize("naming", ["classic", "new"])
def test_the_merged_folder_is_the_base_but_for_the_adapted_tensors(lab, naming):
    names = lab.names("q_proj.weight", "gate_proj.weight")
    adapter = lab.folder(lab.factors(names), target_modules=["q_proj", "gate_proj"])
    base, out = lab.base_folder(), lab.root / "out"
    job, report = plan(base, adapter, naming=naming)
    run(job, out)
    before, after = open_hf_folder(base).tensors, open_hf_folder(out)
    require_tensors(after, lab.spec)
    assert after.naming == naming
    assert len(after.headers) > 1
    transforms = lab.transforms(adapter, "BF16")
    for name, entry in before.items():
        wanted = read_raw(entry)
        if name in names:
            wanted = lab.apply(transforms[name], wanted)
            assert not np.array_equal(wanted, read_raw(entry))
        assert np.array_equal(read_raw(after.tensors[name]), wanted), name
    lines, fields = report()
    assert lines[0] == f"merged into {len(names)} tensors"
    assert fields["merge"]["touched_tensors"] == fields["merge"]["measured_tensors"] == len(names)
    assert fields["merge"]["largest_change_in"] in names
    assert fields["merge"]["largest_change"] > 0


def test_an_interrupted_merge_goes_on_to_the_same_bytes(lab):
    adapter = lab.folder(lab.factors(lab.names("q_proj.weight")))
    base, out = lab.base_folder(), lab.root / "out"
    run(plan(base, adapter)[0], lab.root / "straight")
    job, _ = plan(base, adapter)
    last = max(number for number, task in enumerate(job.tasks) if task.transform)

    def fail(first, block):
        raise KeyboardInterrupt

    object.__setattr__(job.tasks[last], "transform", fail)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, out, overwrite=False, advance=lambda _: None)
    job, report = plan(base, adapter)
    run(job, out)
    for file in (lab.root / "straight").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert report()[1]["merge"]["touched_tensors"] == 3


def test_identity_holds_the_adapter(lab):
    tensors = lab.factors(lab.names("q_proj.weight"))
    base = lab.base_folder()
    one = plan(base, lab.folder(tensors, name="a"))[0]
    same = plan(base, lab.folder(tensors, name="b"))[0]
    other = plan(base, lab.folder(tensors, name="c", lora_alpha=9))[0]
    assert one.identity == same.identity != other.identity


def test_refuses_to_write_into_the_adapter(lab):
    adapter = lab.folder(lab.factors(lab.names("q_proj.weight")))
    job, _ = plan(lab.base_folder(), adapter)
    with pytest.raises(OutputError):
        run(job, adapter)


def test_an_adapter_that_changes_while_it_is_merged_is_noticed(lab):
    adapter = lab.folder(lab.factors(lab.names("q_proj.weight")))
    job, _ = plan(lab.base_folder(), adapter)
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(InputChangedError, match="adapter_config"):
        run(job, lab.root / "out")
    assert not (lab.root / "out").exists()


def test_a_sum_that_is_too_large_leaves_nothing_behind(lab):
    tensors = {key: array * 1e5 for key, array in lab.factors(lab.names("q_proj.weight")).items()}
    job, _ = plan(lab.base_folder("F16"), lab.folder(tensors))
    with pytest.raises(WeightsError, match="too large for F16"):
        run(job, lab.root / "out")
    assert not (lab.root / "out").exists()


def test_the_report_says_what_the_configuration_names_in_vain(lab):
    settings = {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {r".*\.0\..*": 1, "q_proj": 2}}
    _, report = plan(lab.base_folder(), lab.folder(lab.factors(lab.names("q_proj.weight")), **settings))
    lines = "\n".join(report()[0])
    assert "1 keys of rank_pattern or alpha_pattern fit no adapted module: k_proj" in lines
    assert "1 modules fit several keys" in lines
    assert "3 of them were finished by an earlier try" in lines
