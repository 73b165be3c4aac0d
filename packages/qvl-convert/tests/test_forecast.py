"""What `--plan` says: the plan's numbers, measured speeds, and nothing left behind on any file system."""

import errno
import os

import pytest
from qvl_convert import forecast as module
from qvl_convert.forecast import forecast, forecast_json, forecast_text
from qvl_convert.plan_sharded import plan_sharded
from qvl_core.errors import OutputError
from qvl_core.layout import Layout
from qvl_core.weights.whole_tensors import open_whole_tensors

CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)

pytestmark = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_BYTES", 2 * module._BLOCK)


@pytest.fixture
def job(make):
    return plan_sharded(open_whole_tensors(make.hf("hf")), CUT, kind="import", source_revision="")


def test_numbers_are_those_of_the_job(job, make, tmp_path):
    found = forecast(job, tmp_path / "out")
    assert [(name, size) for name, size, _ in found.files] == [(file.name, file.size) for file in job.files]
    assert sum(count for _, _, count in found.files) == sum(
        len(stream.places) for task in job.tasks for stream in task.streams
    )
    assert (found.write_bytes, found.tensors) == (job.size, len(make.arrays))
    assert found.read_bytes == sum(array.nbytes for array in make.arrays.values())
    assert found.read_files == 1
    assert found.read_speed > 0
    assert found.write_speed > 0
    # Source and output lie on one disk, which does one after the other.
    assert found.seconds == pytest.approx(found.read_bytes / found.read_speed + job.size / found.write_speed)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_nameless_files_is_measured_as_well(job, tmp_path, monkeypatch, snapshot, code):
    real = os.open

    def refusing(path, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    before = set(snapshot(tmp_path))
    assert forecast(job, tmp_path / "out").write_speed > 0
    assert set(snapshot(tmp_path)) == before


def test_a_full_disk_is_said_and_not_measured(job, tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    fake = os.statvfs_result((real.f_bsize, 4096, real.f_blocks, 2, 2, real.f_files, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: fake)
    found = forecast(job, tmp_path / "out")
    assert (found.free_bytes, found.write_speed) == (8192, None)
    text = forecast_text(found)
    assert "speed not measured; 8.19 kB are free" in text
    assert "the disk is too full: " in text
    assert forecast_json(found)["writes"]["bytes_per_s"] is None


def test_a_place_that_cannot_be_written_is_wrong_input(job, tmp_path, monkeypatch):
    def refusing(path, flags, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module, "_read_speed", lambda job: 1.0)
    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OutputError, match="Read-only file system"):
        forecast(job, tmp_path / "out")


def test_many_files_are_cut_short_in_the_text_only(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHOWN_FILES", 3)
    layout = Layout(vision_stages=(1, 1, 0, 0, 0), text_stages=(0, 0, 1, 1, 1), pp=5)
    job = plan_sharded(open_whole_tensors(make.hf("hf")), layout, kind="import", source_revision="")
    found = forecast(job, tmp_path / "out")
    assert "  ... and 2 more\n" in forecast_text(found)
    assert len(forecast_json(found)["writes"]["files"]) == 5
