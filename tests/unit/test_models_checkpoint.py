"""Checkpoints are untrusted files: what is sound is read exactly, everything else refused."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from sam_inference.models.checkpoint import (
    CheckpointError,
    as_float32,
    is_floating,
    read_checkpoint,
)

OPTIMIZER = {"state": {0: torch.ones(4)}, "param_groups": [{"lr": 0.1}]}


@pytest.fixture
def save(tmp_path):
    def save(state, **options):
        path = tmp_path / "checkpoint.pt"
        torch.save(state, path, **options)
        return path

    return save


@pytest.fixture
def rewrite(save, tmp_path):
    """Return a function that saves a small state dict and changes entries of its archive."""

    def rewrite(changes, compression=zipfile.ZIP_STORED):
        path = tmp_path / "changed.pt"
        with zipfile.ZipFile(save({"weight": torch.ones(4)})) as archive:
            entries = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in entries.items():
                content = changes.get(name.split("/", 1)[1], content)
                if content is not None:
                    archive.writestr(name, content)
            for name in changes:
                if f"checkpoint/{name}" not in entries:
                    archive.writestr(f"checkpoint/{name}", changes[name])
        return path

    return rewrite


def test_the_tensors_of_a_state_dict_are_read_as_they_are(save):
    shared = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        plain=torch.randn(3, 4, 5),
        half=torch.randn(7).half(),
        double=torch.randn(2, 2).double(),
        counter=torch.tensor(9),
        part=shared[8:14],
        turned=shared.reshape(4, 6).t(),
        parameter=torch.nn.Parameter(torch.randn(5)),
    )

    tensors = read_checkpoint(save(state))

    assert list(tensors) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor.detach().numpy(), strict=True)
        assert not tensors[name].flags.writeable


def test_bfloat16_is_widened_exactly(save):
    tensor = torch.randn(6, 5).bfloat16()
    state = {"plain": tensor, "turned": tensor.t(), "scalar": torch.tensor(1.5).bfloat16()}

    tensors = read_checkpoint(save(state))

    for name, expected in state.items():
        assert is_floating(tensors[name])
        assert tensors[name].shape == expected.shape
        np.testing.assert_array_equal(
            as_float32(tensors[name]), np.atleast_1d(expected.float().numpy()), strict=True
        )


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        ({"model": {"weight": torch.ones(4)}, "ema": {"weight": torch.ones(4)}}, "model, ema"),
        ({"optimizer": OPTIMIZER, "net": {}}, "optimizer, net"),
    ],
)
def test_a_state_dict_that_cannot_be_told_from_others_is_asked_for(save, checkpoint, names):
    with pytest.raises(
        CheckpointError, match=f"holds dictionaries, '{names}', and none has the most"
    ):
        read_checkpoint(save(checkpoint))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "around",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "optimizer": OPTIMIZER, "model": state, "loss": 0.5},
        lambda state: {"rng": torch.zeros(2), "model": state},
    ],
)
def test_what_a_training_puts_around_a_state_dict_is_taken_off(save, prefix, around):
    state = {f"{prefix}weight": torch.ones(4), f"{prefix}bias": torch.ones(1)}

    tensors = read_checkpoint(save(around(state)))

    assert list(tensors) == ["weight", "bias"]


def test_a_state_dict_with_something_else_in_it_is_not_mistaken(save):
    state = {"weight": torch.ones(4), "bias": torch.ones(1), "stats": {"mean": torch.ones(1)}}

    with pytest.raises(CheckpointError, match="its entry 'stats' is not a tensor"):
        read_checkpoint(save(state))


def test_a_whole_module_is_answered_with_how_to_save_its_state_dict(save):
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\), FILE\)"):
        read_checkpoint(save(torch.nn.Linear(2, 2)))


def test_a_module_s_state_dict_with_its_version_numbers_is_read(save):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    tensors = read_checkpoint(save(module.state_dict()))

    assert tensors["0.weight"].shape == (4, 3, 3, 3)
    assert tensors["1.num_batches_tracked"] == 0


class RunsACommand:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class Evaluates:
    def __reduce__(self):
        return eval, ("__import__('os').mkdir('pwned')",)


@pytest.mark.parametrize("payload", [RunsACommand(), Evaluates()])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_never_run(save, payload, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save({"weight": payload}, pickle_protocol=protocol)

    with pytest.raises(CheckpointError, match=r"it names '\w+\.(system|eval)'"):
        read_checkpoint(path)

    assert not (tmp_path / "pwned").exists()


def tensor_pickle(shape=(4,), strides=(1,), offset=0, length=4, key="0", storage="FloatStorage"):
    """The pickle of {"weight": a tensor}, whatever that tensor would be."""

    def number(value):
        return pickle.LONG1 + bytes([8]) + struct.pack("<q", value)

    def text(value):
        return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()

    def numbers(values):
        return pickle.MARK + b"".join(map(number, values)) + pickle.TUPLE

    return b"".join(
        [
            pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + text("weight"),
            b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle.MARK,
            pickle.MARK + text("storage") + f"ctorch\n{storage}\n".encode(),
            text(key) + text("cpu") + number(length) + pickle.TUPLE + pickle.BINPERSID,
            number(offset) + numbers(shape) + numbers(strides) + pickle.NEWFALSE,
            pickle.EMPTY_DICT + pickle.TUPLE + pickle.REDUCE + pickle.SETITEM + pickle.STOP,
        ]
    )


def test_the_pickle_that_the_following_cases_vary_is_sound(rewrite):
    tensors = read_checkpoint(rewrite({"data.pkl": tensor_pickle()}))

    np.testing.assert_array_equal(tensors["weight"], np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (5,)}, "reaches beyond its data"),
        ({"offset": 1}, "reaches beyond its data"),
        ({"offset": -1}, "not usable"),
        ({"shape": (2, 2), "strides": (-1, 1)}, "not usable"),
        ({"shape": (-1,)}, "not usable"),
        ({"shape": (2, 2)}, "not usable"),
        ({"shape": (1 << 40,), "strides": (0,)}, "reaches beyond its data"),
        ({"shape": (1 << 62, 1 << 62), "strides": (1, 1)}, "reaches beyond its data"),
        ({"shape": (1,) * 64, "strides": (1,) * 64}, "not usable"),
        ({"length": 5}, "has 16 bytes, not 20"),
        ({"length": -4}, "has 16 bytes"),
        ({"key": "7"}, "the data of weight is missing"),
        ({"key": "../../etc/passwd"}, "the data of weight is missing"),
        ({"storage": "UntypedStorage"}, "it names 'torch.UntypedStorage'"),
    ],
)
def test_a_tensor_outside_its_data_is_refused(rewrite, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(rewrite({"data.pkl": tensor_pickle(**changes)}))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"", "damaged"),
        (tensor_pickle()[:60], "damaged"),
        (pickle.PROTO + b"\x02" + pickle.STOP, "damaged"),
        (pickle.dumps([1, 2], 2), "no dictionary"),
        (pickle.dumps({"weight": 1}, 2), "'weight' is not a tensor"),
        (pickle.dumps({1: 2}, 2), "'1' is not a tensor"),
        (pickle.dumps({1.5: 2}, 2), "key of type float"),
        (pickle.dumps({"a": b"bytes"}, 4), "opcode SHORT_BINBYTES"),
        # A memo of four billion places, which Python's own reader would allocate.
        (b"\x80\x02}r\xff\xff\xff\xff.", None),
        # Nested deeper than could be printed, and so often that it would fill the memory.
        (b"\x80\x02" + b")" + b"\x85" * 3000 + b"X\x01\0\0\0a\x93.", "a name that is no text"),
        (b"\x80\x02)" + b"q\x00h\x00\x86" * 100 + b"h\x00\x93.", "a name that is no text"),
        (b"\x80\x02c" + b"a" * 10_000 + b"\nb\n.", "it names 'a{100}', which"),
        # Nested deeper than a recursive reader could go.
        (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.", "key of type tuple"),
        (b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"Nu.", "key of type tuple"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(rewrite, pickled, message):
    path = rewrite({"data.pkl": pickled})
    if message is None:
        assert read_checkpoint(path) == {}
    else:
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.pkl": None}, "no data.pkl"),
        ({"data/0": None}, "the data of weight is missing"),
        ({"data/0": b"\0" * 15}, "has 15 bytes, not 16"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"constants.pkl": b""}, "TorchScript"),
    ],
)
def test_an_archive_with_wrong_entries_is_refused(rewrite, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(rewrite(changes))


def test_a_compressed_archive_is_refused(rewrite):
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(rewrite({}, zipfile.ZIP_DEFLATED))


def test_a_flipped_bit_is_noticed(save):
    path = save({"weight": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(np.ones(1000, np.float32).tobytes()) + 2000] ^= 1
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="the checksum of its entry"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(save, kept):
    path = save({"weight": torch.ones(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    with pytest.raises(CheckpointError, match="cut off"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "not a PyTorch checkpoint"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, content, message):
    path = tmp_path / "file.pth"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_the_format_of_old_versions_is_named(save):
    path = save({"weight": torch.ones(4)}, _use_new_zipfile_serialization=False)

    with pytest.raises(CheckpointError, match=r"before version 1\.6"):
        read_checkpoint(path)


def test_random_damage_never_does_worse_than_an_error(save, tmp_path):
    content = save({"weight": torch.randn(50), "bias": torch.randn(3)}).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "damaged.pt"
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 3):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 200
