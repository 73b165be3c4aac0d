"""Plans of all sizes, without a byte of weights: every byte that is written and read is planned exactly once."""

import hashlib
import json
from itertools import pairwise, product

import pytest
from qvl_convert.plan_hf import plan_hf
from qvl_convert.plan_sharded import plan_sharded
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout, derive_stages, legal_tensor_degrees
from qvl_core.params import EMBEDDING, parameter_count, parameter_table
from qvl_core.specs import load_spec
from qvl_core.specs.load import shipped_config_path
from qvl_core.weights.hf_folder import SINGLE_FILE
from qvl_core.weights.manifest import rank_file_name, rank_tensors
from qvl_core.weights.names import to_classic
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.safetensors_header import DTYPE_BYTES
from qvl_core.weights.safetensors_writer import TensorShape, WrittenFile, outline
from qvl_core.weights.whole_tensors import open_whole_tensors

GIB = 1024**3
SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
# The layouts of the reference stack's own examples (facts of its release): stages of the vision tower and of the text
# model; every tensor degree that is legal is tried with each.
STAGES = {
    "qwen2.5-vl-3b": [((32,), (36,))],
    "qwen2.5-vl-7b": [((32, 0, 0, 0), (1, 10, 10, 7)), ((32, 0), (12, 16))],
    "qwen2.5-vl-32b": [((32, *[0] * 7), (1, *[9] * 7))],
    "qwen2.5-vl-72b": [((32, *[0] * 7), (6, *[11] * 6, 8))],
}
REFERENCE = [
    (size, Layout(tp=tp, pp=len(vision), vision_stages=vision, text_stages=text))
    for size, stages in STAGES.items()
    for vision, text in stages
    for tp in legal_tensor_degrees(load_spec(size))
]


def write_sparse(path, header, size):
    """Write a file of this header and size whose other bytes take no room on the disk."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)


def sparse_hf(folder, size, dtype=lambda name: "BF16"):
    """Make an HF folder of a shipped size whose tensors are holes."""
    folder.mkdir()
    shapes = [
        TensorShape(name=row.name, dtype=dtype(row.name), shape=row.shape) for row in parameter_table(load_spec(size))
    ]
    plan = outline(shapes)
    write_sparse(folder / SINGLE_FILE, plan.header, plan.size)
    (folder / "config.json").write_bytes(shipped_config_path(size).read_bytes())
    return open_whole_tensors(folder)


def sparse_sharded(folder, job):
    """Carry out a job without its bytes: files of holes, and checksums that are made up."""
    folder.mkdir()
    streams = [stream for task in job.tasks for stream in task.streams]
    checksums = {file.name: {} for file in job.files}
    for i, stream in enumerate(streams):
        for place in stream.places:
            checksums[place.file][place.key] = f"sha256:{hashlib.sha256(str(i).encode()).hexdigest()}"
    written = {}
    for file in job.files:
        write_sparse(folder / file.name, file.fixed[0][1], file.size)
        written[file.name] = WrittenFile(file=folder / file.name, size=file.size, checksums=checksums[file.name])
    job.complete(folder, written)
    return open_whole_tensors(folder)


def headers_of(job):
    """Give the JSON header of each planned file."""
    found = {}
    for file in job.files:
        ((offset, data),) = file.fixed
        assert offset == 0
        assert int.from_bytes(data[:8], "little") == len(data) - 8
        found[file.name] = json.loads(data[8:])
        found[file.name].pop("__metadata__")
    return found


def assert_every_written_byte_is_planned_once(job):
    spans = {file.name: [(start, start + len(data)) for start, data in file.fixed] for file in job.files}
    for task in job.tasks:
        for stream in task.streams:
            for place in stream.places:
                spans[place.file].append((place.offset, place.offset + stream.size))
    for file in job.files:
        found = sorted(spans[file.name])
        assert (found[0][0], found[-1][1]) == (0, file.size), file.name
        assert all(before[1] == after[0] for before, after in pairwise(found)), file.name
    assert sum(task.size for task in job.tasks) + sum(len(file.fixed[0][1]) for file in job.files) == job.size


def assert_headers_say_where_the_streams_go(job):
    headers, data = headers_of(job), {file.name: len(file.fixed[0][1]) for file in job.files}
    for task in job.tasks:
        for stream in task.streams:
            for place in stream.places:
                start = place.offset - data[place.file]
                assert [start, start + stream.size] == headers[place.file][place.key]["data_offsets"]


def assert_every_source_byte_is_used_once(job, source):
    tasks = {task.name: task for task in job.tasks}
    assert set(tasks) == {*source.tensors, *source.optimizer}
    for name, tensor in (*source.tensors.items(), *source.optimizer.items()):
        task, row, sizes = tasks[name], 0, dict.fromkeys(range(len(tasks[name].streams)), 0)
        for segment in task.segments:
            assert segment.tensor is tensor
            assert segment.first == row
            row = segment.stop
            column = 0
            for target in segment.targets:
                assert target.first_byte == column
                column = target.stop_byte
                sizes[target.stream] += (segment.stop - segment.first) * (target.stop_byte - target.first_byte)
            assert column == tensor.row_bytes
        assert row == tensor.rows
        assert list(sizes.values()) == [stream.size for stream in task.streams]


def assert_sharded_as_the_table_says(job, source, layout):
    headers = headers_of(job)
    ranks = [(pp, tp) for pp in range(layout.pp) for tp in range(layout.tp)]
    names = [rank_file_name(*rank) for rank in ranks]
    if source.has_optimizer:
        names += [optimizer_file_name(*rank) for rank in ranks]
    assert [file.name for file in job.files] == names
    for pp, tp in ranks:
        wanted = {row.name: row.local_shape(layout.tp) for row in rank_tensors(source.spec, layout, pp)}
        header = headers[rank_file_name(pp, tp)]
        assert {name: tuple(fields["shape"]) for name, fields in header.items()} == wanted
        assert all(fields["dtype"] == source.tensors[name].dtype for name, fields in header.items())
    replicas = {
        row.name: len(row.stages) * (layout.tp if row.shard == "replicate" else 1)
        for row in parameter_table(source.spec, layout)
    }
    assert sum(stream.size * len(stream.places) for task in job.tasks for stream in task.streams) == sum(
        tensor.size * replicas[name] for name, tensor in source.tensors.items()
    ) + sum(tensor.size * replicas[name.rpartition(".")[0]] for name, tensor in source.optimizer.items())


def check_sharded_plan(source, layout):
    job = plan_sharded(source, layout, kind="test", source_revision="")
    assert_every_written_byte_is_planned_once(job)
    assert_headers_say_where_the_streams_go(job)
    assert_every_source_byte_is_used_once(job, source)
    assert_sharded_as_the_table_says(job, source, layout)
    return job


def check_hf_plan(source, hf_files, naming, limit):
    job = plan_hf(source, hf_files, kind="test", naming=naming, max_shard_bytes=limit)
    assert_every_written_byte_is_planned_once(job)
    assert_headers_say_where_the_streams_go(job)
    assert_every_source_byte_is_used_once(job, source)
    found = {to_classic(name): fields for header in headers_of(job).values() for name, fields in header.items()}
    assert {name: tuple(fields["shape"]) for name, fields in found.items()} == {
        row.name: row.shape for row in parameter_table(source.spec)
    }
    for file, header in zip(job.files, headers_of(job).values(), strict=True):
        assert file.size - len(file.fixed[0][1]) <= limit or len(header) == 1
    return job


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Open each size once; the folders take a few hundred kilobytes of disk."""
    opened = {}

    def source(size):
        if size not in opened:
            opened[size] = sparse_hf(tmp_path_factory.mktemp("hf") / size, size)
        return opened[size]

    return source


@pytest.mark.parametrize(
    ("size", "layout"), REFERENCE, ids=lambda value: value if isinstance(value, str) else f"tp{value.tp}-pp{value.pp}"
)
def test_import_of_every_size_into_the_reference_layouts(sources, size, layout):
    source = sources(size)
    assert not check_layout(source.spec, layout)
    assert source.size == 2 * parameter_count(source.spec)
    check_sharded_plan(source, layout)


@pytest.mark.parametrize("size", ["qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-72b"])
def test_reshard_and_export_of_every_size(sources, tmp_path, size):
    spec, source = load_spec(size), sources(size)
    vision, text = STAGES[size][0]
    degree = legal_tensor_degrees(spec)[1]
    first = Layout(tp=degree, pp=len(vision), vision_stages=vision, text_stages=text)
    sharded = sparse_sharded(tmp_path / "sharded", plan_sharded(source, first, kind="test", source_revision="x"))
    assert sharded.size == source.size
    vision, text = derive_stages(spec, 4)
    check_sharded_plan(sharded, Layout(tp=legal_tensor_degrees(spec)[-1], pp=4, vision_stages=vision, text_stages=text))
    assert len(check_hf_plan(sharded, source.path, "new", GIB).files) > 1
    assert len(check_hf_plan(sharded, source.path, "classic", 10**13).files) == 1


def test_a_plan_for_the_most_files(sources):
    spec = load_spec("qwen2.5-vl-72b")
    vision, text = derive_stages(spec, 16)
    layout = Layout(tp=8, pp=16, vision_stages=vision, text_stages=text)
    assert len(check_sharded_plan(sources("qwen2.5-vl-72b"), layout).files) == 128


def tiny_layouts():
    """Give every legal layout of tiny: no stage is empty, and one at most has layers of both kinds."""
    spec = load_spec("qwen2.5-vl-tiny")

    def splits(total, parts):
        if parts == 1:
            return [(total,)]
        return [(n, *rest) for n in range(1, total - parts + 2) for rest in splits(total - n, parts - 1)]

    found = []
    for vision_parts, text_parts, shared in product(
        range(1, spec.vision.depth + 1), range(1, spec.text.num_layers + 1), (0, 1)
    ):
        pp = vision_parts + text_parts - shared
        stages = product(splits(spec.vision.depth, vision_parts), splits(spec.text.num_layers, text_parts))
        for (vision, text), tp in product(stages, legal_tensor_degrees(spec)):
            vision_stages, text_stages = vision + (0,) * (pp - vision_parts), (0,) * (pp - text_parts) + text
            layout = Layout(tp=tp, pp=pp, vision_stages=vision_stages, text_stages=text_stages)
            assert not check_layout(spec, layout)
            found.append(layout)
    return sorted(found, key=lambda layout: (layout.pp, layout.tp, layout.vision_stages, layout.text_stages))


def test_tiny_in_legal_layouts_of_every_kind_and_mixed_dtypes(tmp_path):
    kinds = {
        row.name: ("BF16", "F16", "F32")[i % 3] for i, row in enumerate(parameter_table(load_spec("qwen2.5-vl-tiny")))
    }
    source = sparse_hf(tmp_path / "hf", "qwen2.5-vl-tiny", kinds.__getitem__)
    # Of the 256, the smallest and the largest, and a fair sample between.
    layouts = tiny_layouts()
    assert len(layouts) == 256
    for layout in (*layouts[:6], *layouts[6:-4:11], *layouts[-4:]):
        job = check_sharded_plan(source, layout)
        data = {file.name: len(file.fixed[0][1]) for file in job.files}
        for name, header in headers_of(job).items():
            for fields in header.values():
                assert (data[name] + fields["data_offsets"][0]) % DTYPE_BYTES[fields["dtype"]] == 0


def test_a_tied_embedding_is_planned_for_the_first_and_the_last_stage(sources):
    source = sources("qwen2.5-vl-3b")
    layout = Layout(tp=2, pp=2, vision_stages=(32, 0), text_stages=(10, 26))
    job = check_sharded_plan(source, layout)
    streams = next(task.streams for task in job.tasks if task.name == EMBEDDING)
    assert [[place.file for place in stream.places] for stream in streams] == [
        [rank_file_name(0, 0), rank_file_name(1, 0)],
        [rank_file_name(0, 1), rank_file_name(1, 1)],
    ]


def test_optimizer_state_is_planned_beside_the_weights(make):
    source = open_whole_tensors(make.checkpoint("from", Layout(vision_stages=(2,), text_stages=(3,), tp=2)))
    layout = Layout(vision_stages=(1, 1, 0), text_stages=(0, 1, 2), pp=3, tp=4)
    job = check_sharded_plan(source, layout)
    headers = headers_of(job)
    # The first stage has frozen vision layers only: its optimizer files are there, and empty.
    assert headers[optimizer_file_name(0, 0)] == {}
    assert set(headers[optimizer_file_name(2, 3)]) == {
        f"{row.name}.{kind}" for row in rank_tensors(source.spec, layout, 2) for kind in ("moment1", "moment2")
    }


def test_a_plan_changes_its_identity_with_what_it_depends_on(make, tmp_path):
    path = make.hf("hf")

    def identity(layout=SINGLE, kind="a"):
        return plan_sharded(open_whole_tensors(path), layout, kind=kind, source_revision="").identity

    first = identity()
    assert identity() == first
    assert identity(kind="b") != first
    assert identity(Layout(vision_stages=(2,), text_stages=(3,), tp=2)) != first
    others = [Layout(vision_stages=(2, 0), text_stages=text, pp=2) for text in ((1, 2), (2, 1), (0, 3))]
    assert len({identity(layout) for layout in others}) == 3
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content)
    assert identity() != first


def test_side_files_may_have_another_context_length_and_nothing_else(make):
    source, config = open_whole_tensors(make.hf("hf")), json.loads((make.side / "config.json").read_text())

    def plan(**changes):
        (make.side / "config.json").write_text(json.dumps({**config, **changes}))
        return plan_hf(source, make.side, kind="export", naming="classic", max_shard_bytes=10**9)

    assert plan(max_position_embeddings=12345).size == plan().size
    with pytest.raises(WeightsError, match=r"describes another model than the weights:\n  text\.rope_theta"):
        plan(rope_theta=12345.0)


def test_an_hf_plan_depends_on_the_side_files_the_spelling_and_the_size(make):
    source = open_whole_tensors(make.hf("hf"))

    def identity(naming="classic", size=10**9, **more):
        return plan_hf(source, make.side, kind="a", naming=naming, max_shard_bytes=size, **more).identity

    first = identity()
    assert identity() == first
    assert len({first, identity("new"), identity(size=5000), identity(more_identity=("adapter",))}) == 4
    (make.side / "tokenizer.json").write_text('{"other": 1}')
    assert identity() != first
