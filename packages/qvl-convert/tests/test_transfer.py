"""Copying one tensor: every place gets the bytes of its cut, in blocks of any size, and damage stops it."""

import hashlib
import re
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qvl_convert import transfer
from qvl_convert.plan_hf import plan_hf
from qvl_convert.plan_sharded import plan_sharded
from qvl_convert.transfer import Place, Segment, Stream, Target, Task, run_task
from qvl_core.errors import InputChangedError, WeightsError
from qvl_core.layout import Layout
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.weights import row_reader, whole_tensors
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.row_reader import OpenFiles
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.sharding import cut
from qvl_core.weights.whole_tensors import open_whole_tensors

CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
DOWN = "model.layers.0.mlp.down_proj.weight"
QKV = "visual.blocks.1.attn.qkv.weight"
NORM = "model.norm.weight"


class Memory:
    """A sink that keeps what comes, and checks that it comes in order."""

    def __init__(self, digest="sha256", unwanted=()):
        self.found = {}
        self._digest, self._unwanted = digest, unwanted

    def digest_kind(self, place):
        return self._digest

    def wanted(self, place):
        return place.file not in self._unwanted

    def write(self, place, position, data):
        assert data.format == "B"
        held = self.found.setdefault(place, bytearray())
        assert len(held) == position
        held += data


def run(source, tasks, sink):
    digests = {}
    with OpenFiles(source.inputs) as files:
        for task in tasks:
            digests.update(run_task(task, files, sink))
    return digests


LAYOUTS = [
    Layout(vision_stages=(2,), text_stages=(3,), tp=tp)
    for tp in (1, 2, 4)
] + [
    CUT,
    Layout(vision_stages=(1, 1, 0), text_stages=(0, 1, 2), pp=3, tp=4),
    Layout(vision_stages=(1, 1, 0, 0, 0), text_stages=(0, 0, 1, 1, 1), pp=5),
]  # fmt: skip


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    origin=st.sampled_from([None, *LAYOUTS]),
    target=st.sampled_from(LAYOUTS),
    block_bytes=st.sampled_from([50, 333, 4096, 2**22]),
)
def test_every_place_gets_the_bytes_of_its_cut(make, origin, target, block_bytes):
    name = f"from-{LAYOUTS.index(origin) if origin else 'hf'}"
    if not (make.root / name).exists():
        make.hf(name, max_shard_bytes=9000) if origin is None else make.sharded(name, origin)
    source = open_whole_tensors(make.root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reader, "BLOCK_BYTES", block_bytes)
        job, sink = plan_sharded(source, target, kind="test", source_revision=""), Memory()
        digests = run(source, job.tasks, sink)
    seen = set()
    for row in parameter_table(make.spec, target):
        for pp in row.stages:
            for tp in range(target.tp):
                part = cut(make.arrays[row.name], row.shard, tp=target.tp, rank=tp).tobytes()
                place = next(one for one in digests if (one.file, one.key) == (rank_file_name(pp, tp), row.name))
                assert bytes(sink.found[place]) == part, place
                assert digests[place] == f"sha256:{hashlib.sha256(part).hexdigest()}"
                seen.add(place)
    assert seen == set(digests)


@pytest.mark.parametrize("layout", LAYOUTS, indirect=True, ids=str)
def test_an_hf_file_gets_the_whole_tensors(make, layout):
    source, sink = open_whole_tensors(make.sharded("from", layout)), Memory()
    job = plan_hf(source, make.side, kind="test", naming="new", max_shard_bytes=9000)
    run(source, job.tasks, sink)
    found = {place.key: bytes(data) for place, data in sink.found.items()}
    assert sorted(found.values()) == sorted(array.tobytes() for array in make.arrays.values())
    assert found["model.language_model.norm.weight"] == make.arrays[NORM].tobytes()


def test_a_zip_archive_gets_its_own_kind_of_digest(make):
    source, sink = open_whole_tensors(make.hf("hf")), Memory("crc32")
    job = plan_sharded(source, CUT, kind="test", source_revision="")
    digests = run(source, job.tasks, sink)
    assert all(found == f"crc32:{zlib.crc32(bytes(sink.found[place])):08x}" for place, found in digests.items())


def test_a_finished_file_is_not_written_again_but_has_its_digest(make):
    source, sink = open_whole_tensors(make.hf("hf")), Memory(unwanted=(rank_file_name(0, 1),))
    job = plan_sharded(source, CUT, kind="test", source_revision="")
    digests = run(source, job.tasks, sink)
    assert {place.file for place in digests} - {place.file for place in sink.found} == {rank_file_name(0, 1)}


def flip(file, tensor, at=3):
    entry = read_header(file).tensors[tensor]
    content = bytearray(file.read_bytes())
    content[entry.start + at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("target", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("tensor", "home"), [(DOWN, (0, 1)), (QKV, (0, 0)), (NORM, (1, 1)), (NORM, (1, 0)), (EMBEDDING, (0, 1))]
)
@pytest.mark.parametrize("make", [True], indirect=True, ids=["tied"])
def test_damage_is_found_whatever_the_new_layout(make, target, tensor, home):
    path = make.sharded("from", CUT)
    flip(path / rank_file_name(*home), tensor)
    source = open_whole_tensors(path)
    job = plan_sharded(source, target, kind="test", source_revision="")
    task = next(task for task in job.tasks if task.name == tensor)
    with pytest.raises(WeightsError, match=re.escape(f"{rank_file_name(*home)}: {tensor}\n  is damaged")):
        run(source, [task], Memory())
    run(source, [task for task in job.tasks if task.name != tensor], Memory())


def test_out_of_order_damage_is_found_before_anything_is_written(make):
    path = make.sharded("from", CUT)
    flip(path / rank_file_name(0, 1), DOWN)
    source = open_whole_tensors(path)
    task = next(task for task in plan_sharded(source, CUT, kind="test", source_revision="").tasks if task.name == DOWN)
    rows = source.tensors[DOWN].rows
    half = [replace(task.segments[0], first=first, stop=stop) for first, stop in ((rows // 2, rows), (0, rows // 2))]
    sink = Memory()
    with pytest.raises(WeightsError, match="is damaged"):
        run(source, [replace(task, segments=tuple(half), in_order=False)], sink)
    assert sink.found == {}


def test_segments_in_any_order_go_to_the_ends_of_their_streams(make):
    """What packing q, k and v by heads asks for: rows of several tensors, interleaved into one."""
    layout = Layout(vision_stages=(2,), text_stages=(3,), tp=2)
    source = open_whole_tensors(make.sharded("from", layout))
    names = [f"model.layers.0.self_attn.{one}_proj.bias" for one in "qkv"]
    make.kinds.update(dict.fromkeys(names, "BF16"))
    tensors = [source.tensors[name] for name in names]
    order = [(2, 8, 16), (0, 0, 8), (1, 8, 16), (2, 0, 8)]
    segments = tuple(
        Segment(
            tensor=tensors[which],
            first=first,
            stop=stop,
            targets=(Target(stream=0, first_byte=0, stop_byte=tensors[which].row_bytes),),
        )
        for which, first, stop in order
    )
    wanted = b"".join(make.arrays[names[which]][first:stop].tobytes() for which, first, stop in order)
    place = Place(file="x", key="packed", offset=0)
    task = Task(name="packed", segments=segments, streams=(Stream(size=len(wanted), places=(place,)),), in_order=False)
    sink = Memory()
    run(source, [task], sink)
    assert bytes(sink.found[place]) == wanted


def test_a_transform_gets_all_rows_once_and_replaces_them(make, monkeypatch):
    monkeypatch.setattr(row_reader, "BLOCK_BYTES", 200)
    source = open_whole_tensors(make.sharded("from", CUT))
    seen = []

    def invert(first, rows):
        seen.append((first, len(rows)))
        return ~rows

    job = plan_hf(source, make.side, kind="test", naming="classic", max_shard_bytes=10**9, transforms={DOWN: invert})
    sink = Memory()
    run(source, [task for task in job.tasks if task.name in (DOWN, NORM)], sink)
    found = {place.key: bytes(data) for place, data in sink.found.items()}
    assert found[DOWN] == (~make.arrays[DOWN].view(np.uint8)).tobytes()
    assert found[NORM] == make.arrays[NORM].tobytes()
    assert len(seen) > 1
    assert [first for first, _ in seen] == [sum(count for _, count in seen[:i]) for i in range(len(seen))]
    assert sum(count for _, count in seen) == source.tensors[DOWN].rows


def test_a_transform_does_not_hide_damage(make):
    path = make.sharded("from", Layout(vision_stages=(2,), text_stages=(3,)))
    flip(path / rank_file_name(0, 0), DOWN)
    source = open_whole_tensors(path)
    options = {"naming": "classic", "max_shard_bytes": 10**9, "transforms": {DOWN: lambda first, rows: rows}}
    job = plan_hf(source, make.side, kind="test", **options)
    with pytest.raises(WeightsError, match="is damaged"):
        run(source, [task for task in job.tasks if task.name == DOWN], Memory())


def test_a_source_that_was_replaced_is_not_read(make):
    path = make.hf("hf")
    source = open_whole_tensors(path)
    job = plan_sharded(source, CUT, kind="test", source_revision="")
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputChangedError, match="was written or replaced while it was read"):
        run(source, job.tasks[:1], Memory())


@pytest.mark.parametrize("shard", ["row", "column"])
def test_columns_do_not_cost_a_copy_of_the_tensor(tmp_path, shard):
    rows, columns = 4096, 2048
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(rows * columns * 2)
    tensor = whole_tensors.WholeTensor(
        name="x", shape=(rows, columns), dtype="BF16", pieces=(whole_tensors.whole_piece(path, 0, (rows, columns)),)
    )
    half = columns if shard == "row" else columns * 2
    cuts = [
        (
            0,
            rows,
            (Target(stream=0, first_byte=0, stop_byte=half), Target(stream=1, first_byte=half, stop_byte=columns * 2)),
        )
    ]
    if shard == "column":
        cuts = [
            (i * rows // 2, (i + 1) * rows // 2, (Target(stream=i, first_byte=0, stop_byte=columns * 2),))
            for i in range(2)
        ]
    task = Task(
        name="x",
        segments=tuple(
            Segment(tensor=tensor, first=first, stop=stop, targets=targets) for first, stop, targets in cuts
        ),
        streams=tuple(Stream(size=rows * columns, places=(Place(file=f"{i}", key="x", offset=0),)) for i in range(2)),
    )

    class Nowhere(Memory):
        def write(self, place, position, data):
            self.found[place] = position + len(data)

    tracemalloc.start()
    sink = Nowhere()
    with OpenFiles((whole_tensors.input_of(path),)) as files:
        run_task(task, files, sink)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(sink.found.values()) == {rows * columns}
    assert peak < 3 * row_reader.BLOCK_BYTES < tensor.size


def test_the_size_of_a_task_counts_copies(make):
    source = open_whole_tensors(make.hf("hf"))
    job = plan_sharded(source, CUT, kind="test", source_revision="")
    sizes = {task.name: task.size for task in job.tasks}
    assert sizes[NORM] == 2 * source.tensors[NORM].size
    assert sizes[DOWN] == source.tensors[DOWN].size
    assert transfer.new_digest("crc32").text() == "crc32:00000000"
