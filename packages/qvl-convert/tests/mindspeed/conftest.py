"""A small model with grouped queries, folders of the reference stack made without our writer, and jobs carried out."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from qvl_convert.run_job import run_job
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.row_reader import OpenFiles, RowReader
from qvl_core.weights.tensor_io import tensor_from_array
from sharded_folders import NUMPY, grouped_spec

STORAGES = {"BF16": "BFloat16Storage", "F16": "HalfStorage", "F32": "FloatStorage", "I64": "LongStorage"}
WIDTHS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32, "I64": np.int64}

LAYOUTS = (
    Layout(vision_stages=(3,), text_stages=(5,)),
    Layout(vision_stages=(3,), text_stages=(5,), tp=2),
    Layout(vision_stages=(3, 0, 0, 0), text_stages=(1, 2, 1, 1), pp=4),
    Layout(vision_stages=(2, 1, 0), text_stages=(0, 1, 4), pp=3, tp=2),
    Layout(vision_stages=(3, 0), text_stages=(0, 5), pp=2),
)


class Name:
    """A class or function that a pickle names, and that need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("never called")


class Tensor:
    """Raw bits and their dtype; `whole` is what they are a slice of, as (array, offset, strides)."""

    def __init__(self, array, dtype, whole=None):
        self.array, self.dtype, self.whole = array, dtype, whole


class Object:
    """An object by its class's name and its attributes."""

    def __init__(self, name, state):
        self.name, self.state = name, state


class Pickler(pickle._Pickler):
    """Writes names and tensors as torch does, or as MSAdapter's source says it does."""

    def __init__(self, file, flavour, protocol=2):
        super().__init__(file, protocol=protocol)
        self.flavour = flavour
        self.storages = []

    def reducer_override(self, value):
        if isinstance(value, Name):
            return value.name
        if isinstance(value, Object):
            return value.name, (), value.state
        if isinstance(value, Tensor):
            return self.tensor(value)
        return NotImplemented

    def tensor(self, tensor):
        array, offset, strides = tensor.whole or (tensor.array, 0, dense_strides(tensor.array.shape))
        self.storages.append(array.tobytes())
        package = {"torch": "torch", "msadapter": "msadapter"}[self.flavour]
        kind = STORAGES[tensor.dtype]
        kind = Name("torch", kind) if self.flavour == "torch" else kind
        storage = Storage(("storage", kind, str(len(self.storages) - 1), "cpu", array.size))
        rebuild = Name(f"{package}._utils", "_rebuild_tensor_v2")
        shape = tensor.array.shape
        if self.flavour == "torch":
            return rebuild, (storage, offset, shape, strides, False, Object(Name("collections", "OrderedDict"), None))
        arguments = (storage, offset, shape, strides, False, None, None)
        kind = Name("mindspore.common.tensor", "Tensor")
        return Name(f"{package}._tensor", "_rebuild_from_type_v2"), (rebuild, kind, arguments, None)

    def persistent_id(self, value):
        return value.fields if isinstance(value, Storage) else None

    def save_global(self, value, name=None):
        self.write(f"c{value.module}\n{value.name}\n".encode())
        self.memoize(value)


class Storage:
    def __init__(self, fields):
        self.fields = fields


def dense_strides(shape):
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def save(path, state, flavour="torch", protocol=2):
    """Write a checkpoint; `torch` has the names and entries of torch, `msadapter` those of its emulation."""
    buffer = io.BytesIO()
    pickler = Pickler(buffer, flavour, protocol)
    pickler.dump(state)
    top = "model_optim_rng" if flavour == "torch" else "archive"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}/data.pkl", buffer.getvalue())
        archive.writestr(f"{top}/version", b"3")
        archive.writestr(f"{top}/byteorder", b"little")
        for number, data in enumerate(pickler.storages):
            archive.writestr(f"{top}/data/{number}", data)
    return path


def interleaved(parts, groups):
    """Fuse as the reference does, said with reshapes: [groups, rows of a group] of each part side by side."""
    rest = parts[0].shape[1:]
    return np.concatenate([part.reshape(groups, -1, *rest) for part in parts], axis=1).reshape(-1, *rest)


class Model:
    """One model's arrays of random bits, and the reference's view of them by an independent path."""

    def __init__(self, root, tied, dtype="BF16", spec=None):
        self.root = root
        self.spec = spec or grouped_spec(tied, depth=3, layers=5)
        random = np.random.default_rng(11)
        text = dtype if dtype != "mixed" else "BF16"
        self.kinds = {
            row.name: text if dtype != "mixed" or row.component == "text" else "F32"
            for row in parameter_table(self.spec)
        }
        self.arrays = {
            row.name: random.integers(
                0, np.iinfo(WIDTHS[self.kinds[row.name]]).max, row.shape, WIDTHS[self.kinds[row.name]]
            )
            for row in parameter_table(self.spec)
        }
        self.side = root / "side"
        self.side.mkdir()
        (self.side / "config.json").write_text(json.dumps(to_hf_config(self.spec)))

    def hf(self, name="hf"):
        tensors = []
        for key, array in self.arrays.items():
            kind = self.kinds[key]
            tensors.append(tensor_from_array(key, array.view(NUMPY[kind]), kind))
        write_hf_folder(tensors, self.side, self.root / name)
        return self.root / name

    def fused(self):
        """Every tensor of the reference at one rank and stage, by its own name with whole-model layer numbers."""
        arrays, found = self.arrays, {}
        renamed = {
            "norm1": "input_layernorm", "norm2": "pre_mlp_layernorm", "input_layernorm": "input_layernorm",
            "post_attention_layernorm": "pre_mlp_layernorm", "attn.proj": "self_attention.linear_proj",
            "self_attn.o_proj": "self_attention.linear_proj", "mlp.down_proj": "mlp.linear_fc2",
        }  # fmt: skip
        for key, array in arrays.items():
            parts = key.split(".")
            if parts[:2] == ["visual", "blocks"] or parts[:2] == ["model", "layers"]:
                middle, suffix = ".".join(parts[3:-1]), parts[-1]
                layers = "image_encoder.encoder.blocks" if parts[0] == "visual" else "text_decoder.decoder"
                base, hf = f"{layers}.layers.{parts[2]}.", ".".join(parts[:3])
                if middle == "attn.qkv":
                    whole = interleaved(np.split(array, 3), self.spec.vision.num_heads)
                    found[f"{base}self_attention.linear_qkv.{suffix}"] = whole
                elif middle == "self_attn.q_proj":
                    qkv = [arrays[f"{hf}.self_attn.{kind}_proj.{suffix}"] for kind in "qkv"]
                    found[f"{base}self_attention.linear_qkv.{suffix}"] = interleaved(qkv, self.spec.text.num_kv_heads)
                elif middle == "mlp.gate_proj":
                    up = arrays[f"{hf}.mlp.up_proj.{suffix}"]
                    found[f"{base}mlp.linear_fc1.{suffix}"] = np.concatenate([array, up])
                elif middle in renamed:
                    found[f"{base}{renamed[middle]}.{suffix}"] = array
        outside = {
            "visual.patch_embed.proj.weight": "image_encoder.encoder.patch_embed.proj.weight",
            "visual.merger.ln_q.weight": "image_encoder.projector.layernorm.weight",
            "visual.merger.mlp.0.weight": "image_encoder.projector.encoder.linear_fc1.weight",
            "visual.merger.mlp.0.bias": "image_encoder.projector.encoder.linear_fc1.bias",
            "visual.merger.mlp.2.weight": "image_encoder.projector.encoder.linear_fc2.weight",
            "visual.merger.mlp.2.bias": "image_encoder.projector.encoder.linear_fc2.bias",
            "model.embed_tokens.weight": "text_decoder.embedding.word_embeddings.weight",
            "model.norm.weight": "text_decoder.decoder.final_layernorm.weight",
            "lm_head.weight": "text_decoder.output_layer.weight",
        }
        return {**found, **{name: arrays[key] for key, name in outside.items() if key in arrays}}

    def stage(self, vision, text, *, tied_copy, tp=1, rank=0):
        """One rank's tensors, for ranges of layers (first, after last); numbers begin at 0, slices by np.split."""
        spec, found = self.spec, {}
        whole = self.fused()
        if tied_copy:
            whole["text_decoder.output_layer.weight"] = whole["text_decoder.embedding.word_embeddings.weight"]
        for key, array in whole.items():
            first, after, depth = (
                (*vision, spec.vision.depth) if key.startswith("image") else (*text, spec.text.num_layers)
            )
            head, mark, tail = key.partition(".layers.")
            if mark:
                number, _, rest = tail.partition(".")
                if not first <= int(number) < after:
                    continue
                key = f"{head}.layers.{int(number) - first}.{rest}"
            elif key.startswith(("image_encoder.encoder.patch", "text_decoder.embedding")):
                if first != 0 or first == after:
                    continue
            elif after != depth or first == after:
                continue
            found[key] = self._slice(key, array, tp, rank)
        return found

    def _slice(self, key, array, tp, rank):
        columns = ("linear_proj.weight", "linear_fc2.weight")
        if key.endswith(columns):
            return np.split(array, tp, axis=1)[rank]
        if "mlp.linear_fc1" in key:
            return np.concatenate([np.split(half, tp)[rank] for half in np.split(array, 2)])
        if "linear_qkv" in key or "linear_fc1" in key or "word_embeddings" in key or "output_layer" in key:
            return np.split(array, tp)[rank]
        return array

    def tensor(self, key, array, whole=None):
        kinds = {"image": self.kinds["visual.patch_embed.proj.weight"], "text_": self.kinds["model.norm.weight"]}
        return Tensor(np.ascontiguousarray(array) if whole is None else array, kinds[key[:5]], whole)

    def mindspeed(self, name="mm", layout=LAYOUTS[0], flavour="torch", change=None, iteration="release", more=None):
        """A folder of the reference made here. `change(stage, rank, tensors)` may alter what a file will hold."""
        folder = self.root / name
        step = iteration if iteration == "release" else f"iter_{int(iteration):07d}"
        for stage in range(layout.pp):
            vision, text = (
                (sum(counts[:stage]), sum(counts[: stage + 1])) for counts in (layout.vision_stages, layout.text_stages)
            )
            for rank in range(layout.tp):
                tied_copy = self.spec.text.tie_word_embeddings and layout.pp > 1
                arrays = self.stage(vision, text, tied_copy=tied_copy, tp=layout.tp, rank=rank)
                tensors = {key: self.tensor(key, array) for key, array in arrays.items()}
                if change is not None:
                    tensors = change(stage, rank, tensors)
                place = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if layout.pp > 1 else "")
                save(folder / step / place / "model_optim_rng.pt", {"model": tensors, **(more or {})}, flavour)
        (folder / "latest_checkpointed_iteration.txt").write_text(iteration)
        return folder

    def assert_equal(self, source):
        """Every tensor of an opened folder is ours, to the bit, and of our dtype."""
        assert list(source.tensors) == list(self.arrays)
        with OpenFiles(source.inputs) as files:
            for name, tensor in source.tensors.items():
                assert tensor.dtype == self.kinds[name]
                assert tensor.shape == self.arrays[name].shape
                reader = RowReader(tensor, files, check=True)
                blocks = [reader.read(i, i + 1).tobytes() for i in range(tensor.rows)]
                reader.finish()
                assert b"".join(blocks) == self.arrays[name].tobytes(), name


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, tmp_path):
    return Model(tmp_path, request.param)


@pytest.fixture
def untied(tmp_path):
    return Model(tmp_path, False)


@pytest.fixture
def tied(tmp_path):
    return Model(tmp_path, True)


@pytest.fixture
def new_model(tmp_path):
    def new(**options):
        return Model(tmp_path, **options)

    return new


@pytest.fixture(params=LAYOUTS, ids=lambda layout: f"tp{layout.tp}-pp{layout.pp}")
def cut(request):
    return request.param


@pytest.fixture
def write_checkpoint():
    return save


@pytest.fixture
def named():
    """The building blocks of a pickle: Name, Object, Tensor."""

    class Blocks:
        pass

    Blocks.Name, Blocks.Object, Blocks.Tensor = Name, Object, Tensor
    return Blocks


@pytest.fixture
def carry_out():
    def carry_out(job, out):
        return run_job(job, out, overwrite=False, advance=lambda count: None)

    return carry_out
