"""Archives that are not what torch writes: every check refuses its case, and lets its neighbour pass."""

import io
import os
import pickle
import struct
import zipfile

import pytest
from qvl_convert.mindspeed.archive_plan import TensorOutline, plan_archive
from qvl_convert.mindspeed.torch_archive import MAX_ENTRIES, open_archive
from qvl_core.errors import WeightsError

PICKLE = b"\x80\x02}."


def archive(path, entries, *, compression=zipfile.ZIP_STORED, top="top/"):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(f"{top}{name}", data)
    return path


def refusal(path):
    with pytest.raises(WeightsError) as error:
        open_archive(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.fixture
def plain(tmp_path):
    """A good archive: data.pkl, version, byteorder and two storages."""
    entries = {"data.pkl": PICKLE, "version": b"3", "byteorder": b"little", "data/0": b"a" * 100, "data/1": b"b" * 50}
    return archive(tmp_path / "plain.pt", entries)


def changed(path, change):
    """Apply `change(bytearray)` to a file's bytes."""
    data = bytearray(path.read_bytes())
    result = change(data)
    path.write_bytes(data if result is None else result)
    return path


def directory(data):
    return struct.unpack("<L", data[-6:-2])[0]


def test_reads_an_archive_that_zipfile_wrote(plain):
    found = open_archive(plain)
    assert found.pickle == PICKLE
    entry = found.entries["data/1"]
    assert plain.read_bytes()[entry.start : entry.stop] == b"b" * 50


def test_reads_an_archive_without_a_byteorder_as_old_versions_wrote_it(tmp_path):
    assert open_archive(archive(tmp_path / "x.pt", {"data.pkl": PICKLE, "version": b"2"})).pickle == PICKLE


def test_reads_sizes_behind_the_data(tmp_path):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as file:
        file.writestr("top/data.pkl", PICKLE)
        file.writestr("top/data/0", b"a" * 10)
    path = tmp_path / "x.pt"
    path.write_bytes(pipe.getvalue())
    assert open_archive(path).entries["data/0"].size == 10


@pytest.mark.parametrize("size", [0, 1, 21, 22, 60])
def test_refuses_a_file_that_is_too_short(plain, size):
    text = refusal(changed(plain, lambda data: data[:size]))
    assert "is empty" in text if size == 0 else "truncated" in text or "does not begin with PK" in text


@pytest.mark.parametrize("lost", [1, 22, 100, 400])
def test_refuses_a_truncated_file(plain, lost):
    assert "truncated" in refusal(changed(plain, lambda data: data[:-lost]))


def test_refuses_bytes_behind_the_end(plain):
    assert "bytes behind its end" in refusal(changed(plain, lambda data: data + b"\0"))


def test_refuses_bytes_before_the_first_entry(plain):
    assert "does not begin with PK" in refusal(changed(plain, lambda data: b"\0" * 4 + data))


def test_refuses_a_comment(tmp_path):
    path = archive(tmp_path / "x.pt", {"data.pkl": PICKLE})
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"polyglot"
    assert "end record" in refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_refuses_a_compressed_entry_so_that_no_bomb_unfolds(tmp_path, method):
    path = archive(tmp_path / "x.pt", {"data.pkl": PICKLE, "data/0": b"\0" * 10**7}, compression=method)
    assert path.stat().st_size < 20_000
    assert "is compressed" in refusal(path)


def test_refuses_an_encrypted_entry(plain):
    def encrypt(data):
        data[directory(data) + 8] |= 1

    assert "encrypted" in refusal(changed(plain, encrypt))


def test_refuses_headers_that_disagree(plain):
    def rename(data):
        data[30:33] = b"TOP"

    assert "by its own header" in refusal(changed(plain, rename))


@pytest.mark.parametrize(("field", "offset"), [("checksum", 14), ("packed", 18), ("size", 22)])
def test_refuses_an_own_header_of_another_size_or_checksum(plain, field, offset):
    def change(data):
        data[offset] ^= 1

    assert "in its own header" in refusal(changed(plain, change)), field


def two_listings(data):
    first = directory(data)
    return first, data.index(b"PK\x01\x02", first + 4)


def test_refuses_overlapping_entries(plain):
    def overlap(data):
        first, second = two_listings(data)
        data[second + 42 : second + 46] = data[first + 42 : first + 46]

    assert "overlaps" in refusal(changed(plain, overlap))


def test_refuses_a_hole_between_entries(tmp_path):
    def shrink(data):
        # The last entry, in both headers: one byte less than it occupies.
        for at in (data.rindex(b"PK\x03\x04") + 18, data.rindex(b"PK\x01\x02") + 20):
            data[at : at + 8] = struct.pack("<2L", 9, 9)

    path = archive(tmp_path / "x.pt", {"data.pkl": PICKLE, "data/0": b"a" * 10})
    assert "between its last entry and its directory" in refusal(changed(path, shrink))


def test_refuses_a_size_past_the_end(plain):
    def grow(data):
        first, _ = two_listings(data)
        data[first + 20 : first + 28] = struct.pack("<2L", 2**31, 2**31)
        data[18:26] = struct.pack("<2L", 2**31, 2**31)

    assert "behind the last entry" in refusal(changed(plain, grow))


def test_refuses_a_stored_entry_of_two_sizes(plain):
    def grow(data):
        first, _ = two_listings(data)
        data[first + 24 : first + 28] = struct.pack("<L", 2**31)

    assert "is stored, but states" in refusal(changed(plain, grow))


def test_refuses_an_entry_past_the_end(plain):
    def move(data):
        first, _ = two_listings(data)
        data[first + 42 : first + 46] = struct.pack("<L", 2**32 - 2)

    assert "unused bytes" in refusal(changed(plain, move))


def test_refuses_zip64_sizes_without_their_field(plain):
    def widen(data):
        first, _ = two_listings(data)
        data[first + 20 : first + 28] = b"\xff" * 8

    assert "lacks the zip64 field" in refusal(changed(plain, widen))


@pytest.mark.parametrize(("count", "expected"), [(0, "states 0 entries"), (4, "behind its last"), (6, "ends inside")])
def test_refuses_a_wrong_number_of_entries(plain, count, expected):
    def state(data):
        data[-14:-10] = struct.pack("<2H", count, count)

    assert expected in refusal(changed(plain, state))


def test_refuses_a_directory_elsewhere(plain):
    def move(data):
        data[-6:-2] = struct.pack("<L", directory(data) - 1)

    assert "it has to end at" in refusal(changed(plain, move))


def zip64(path):
    plan = plan_archive([TensorOutline(key="a", dtype="F32", shape=(20,))], wide=10)
    with path.open("wb") as file:
        file.truncate(plan.size)
        for offset, data in (*plan.fixed, *plan.finish({"a": "crc32:00000000"})):
            file.seek(offset)
            file.write(data)
    return path


def test_reads_zip64_records(tmp_path):
    assert open_archive(zip64(tmp_path / "x.pt")).entries["data/0"].size == 80


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (-22 - 20 - 56 + 24, 2**40, "two end records that disagree"),
        (-22 - 20 - 56 + 40, 2**60, "states a directory of"),
        (-22 - 20 - 56 + 48, 2**63, "it has to end at"),
        (-22 - 20 + 8, 2**50, "zip64 end record at byte"),
        (-22 - 20 - 56 + 4, 2**60, "damaged zip64"),
    ],
    ids=["entries", "length", "start", "record", "own length"],
)
def test_refuses_huge_numbers_in_zip64_records(tmp_path, at, value, expected):
    def change(data):
        data[at : at + 8 or None] = struct.pack("<Q", value)

    assert expected in refusal(changed(zip64(tmp_path / "x.pt"), change))


def test_refuses_more_entries_than_any_checkpoint_has(tmp_path):
    def change(data):
        for at in (24, 32):
            start = len(data) - 22 - 20 - 56 + at
            data[start : start + 8] = struct.pack("<Q", MAX_ENTRIES + 1)
        data[-14:-10] = b"\xff" * 4

    assert f"1 to {MAX_ENTRIES:,} are read" in refusal(changed(zip64(tmp_path / "x.pt"), change))


def test_an_archive_of_more_than_4_gib_is_read_with_real_zip64(tmp_path):
    # Sparse: it takes no space. The third tensor begins past 4 GiB, the second is larger than that.
    tensors = [
        TensorOutline(key=key, dtype="F32", shape=shape) for key, shape in (("a", (3,)), ("b", (2**30, 2)), ("c", (5,)))
    ]
    plan = plan_archive(tensors)
    path = tmp_path / "x.pt"
    with path.open("wb") as file:
        file.truncate(plan.size)
        for offset, data in (*plan.fixed, *plan.finish(dict.fromkeys("abc", "crc32:00000000"))):
            os.pwrite(file.fileno(), data, offset)
    found = open_archive(path)
    assert found.entries["data/1"].size == 2**33
    assert found.entries["data/2"].start == plan.starts["c"] > 2**33
    with zipfile.ZipFile(path) as other:
        sizes = {info.filename: info.file_size for info in other.infolist()}
        assert sizes["model_optim_rng/data/1"] == 2**33
        assert other.read("model_optim_rng/version") == b"3\n"


@pytest.mark.parametrize("name", ["../x", "a//b", "a/../b", "a\\b", "a\nb", "\u00e9", "/"])
def test_refuses_a_name_that_torch_never_writes(tmp_path, name):
    text = refusal(archive(tmp_path / "x.pt", {"data.pkl": PICKLE, name: b""}))
    assert "not the name of an entry" in text


def test_refuses_two_entries_of_one_name(tmp_path):
    path = archive(tmp_path / "x.pt", {"data.pkl": PICKLE, "data.pk_": PICKLE})
    text = refusal(changed(path, lambda data: bytes(data).replace(b"data.pk_", b"data.pkl")))
    assert "data.pkl" in text
    assert "stands twice" in text


def test_refuses_several_top_folders(tmp_path):
    path = archive(tmp_path / "x.pt", {"one/data.pkl": PICKLE, "two/data.pkl": PICKLE}, top="")
    assert "no single top folder" in refusal(path)
    assert "no single top folder" in refusal(archive(tmp_path / "y.pt", {"data.pkl": PICKLE}, top=""))


def test_refuses_an_archive_that_holds_no_checkpoint(tmp_path):
    assert "has no data.pkl" in refusal(archive(tmp_path / "x.pt", {"model.safetensors": b""}))
    assert "TorchScript" in refusal(archive(tmp_path / "y.pt", {"data.pkl": PICKLE, "constants.pkl": b""}))


def test_refuses_big_endian_data(tmp_path):
    assert "byte order" in refusal(archive(tmp_path / "x.pt", {"data.pkl": PICKLE, "byteorder": b"big"}))


def test_refuses_a_pickle_of_absurd_size(tmp_path):
    assert "at most" in refusal(archive(tmp_path / "x.pt", {"data.pkl": b"\0" * (16 * 1024**2 + 1)}))


def test_finds_a_flipped_bit_in_the_pickle(plain):
    def flip(data):
        data[data.index(PICKLE) + 2] ^= 1

    text = refusal(changed(plain, flip))
    assert "data.pkl" in text
    assert "checksum" in text


def test_refuses_the_format_from_before_1_6_with_a_way_out(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"...")
    text = refusal(path)
    assert "before version 1.6" in text
    assert "torch.save(torch.load(path), path)" in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [(pickle.dumps([1], 4), "pickle"), (b"version https://git-lfs", "Git LFS"), (b"<!DOCTYPE html>", "web page")],
)
def test_names_what_the_file_is_instead(tmp_path, data, expected):
    (tmp_path / "x.pt").write_bytes(data)
    assert expected in refusal(tmp_path / "x.pt")


def test_refuses_a_pipe_and_a_folder_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "named pipe" in refusal(tmp_path / "pipe")
    assert "a folder" in refusal(tmp_path)
