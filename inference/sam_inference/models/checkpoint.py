"""Read the tensors of a PyTorch checkpoint, an untrusted file, without PyTorch.

A checkpoint is a zip archive of a pickle, `data.pkl`, that names the tensors, and of their
raw memory, `data/0` and so on, stored as it is (torch.save since version 1.6).
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam_inference.models import ModelFileError
from sam_inference.models.pickled import (
    BFLOAT16,
    PickleError,
    StorageRecord,
    TensorRecord,
    read_state_dict,
)

# Those of SAM are below 100 kB.
_MAX_PICKLE_BYTES = 16 << 20
_MAX_DIMENSIONS = 8
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_HEADER_SIGNATURE = b"PK\x03\x04"
_CRC_CHUNK_BYTES = 16 << 20

# What zipfile raises over damaged archives.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
    struct.error,
)


class CheckpointError(ModelFileError):
    """A file is not a checkpoint, damaged, or of a model that is not supported."""


def read_checkpoint(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a checkpoint by name, read-only and mapped from the file.

    All of it is read once, to check it, and nothing kept, so that a checkpoint may be larger
    than memory. The file must not change as long as the arrays are used. `is_floating` and
    `as_float32` know the arrays that hold bfloat16, which NumPy does not.

    Raises:
        CheckpointError: the file is not one, is damaged, or holds more than tensors.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
            if not zipfile.is_zipfile(file):
                raise CheckpointError(f"{path}: {_what_it_is(start)}")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, memory)
    except (PickleError, *_ZIP_ERRORS) as error:
        raise CheckpointError(f"{path}: is not a sound checkpoint: {error}") from error


def is_floating(tensor: NDArray[np.generic]) -> bool:
    """Whether a checkpoint's tensor holds floating-point numbers."""
    return tensor.dtype.kind == "f" or tensor.dtype == BFLOAT16


def as_float32(tensor: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return a checkpoint's tensor in float32, contiguous, its bytes in the order of files."""
    contiguous = np.ascontiguousarray(tensor)
    if contiguous.dtype == BFLOAT16:
        # It is the upper half of a float32.
        return (contiguous.view("<u2").astype("<u4") << 16).view("<f4")
    return contiguous.astype("<f4", copy=False)


def _what_it_is(start: bytes) -> str:
    """Say what a file that is no zip archive may be, from its first bytes."""
    if not start:
        return "is empty"
    if start.startswith(_LOCAL_HEADER_SIGNATURE):
        return "is cut off: the end of the archive is missing; fetch it again"
    if start.startswith(b"\x80"):
        return (
            "is in PyTorch's format of before version 1.6; "
            "load it with torch.load(..., weights_only=True) and save it with torch.save"
        )
    if start.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint"
    return "is not a PyTorch checkpoint"


def _read_archive(archive: zipfile.ZipFile, memory: mmap.mmap) -> dict[str, NDArray[np.generic]]:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError("there is no data.pkl in it")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise PickleError("it is a TorchScript program, not a state dict")
    byte_order = entries.get(f"{root}byteorder")
    if byte_order and bytes(_content(byte_order, memory)) != b"little":
        raise PickleError("its numbers are big-endian")
    pickled = entries[pickles[0]]
    if pickled.file_size > _MAX_PICKLE_BYTES:
        raise PickleError(f"its data.pkl has {pickled.file_size} bytes")
    storages: dict[StorageRecord, NDArray[np.generic]] = {}
    tensors = {}
    for name, record in read_state_dict(bytes(_content(pickled, memory))).items():
        storage = record.storage
        if storage not in storages:
            info = entries.get(f"{root}data/{storage.key}")
            if info is None:
                raise PickleError(f"the data of {name} is missing")
            storages[storage] = _storage_array(storage, _content(info, memory), name)
        tensors[name] = _tensor_array(record, storages[storage], name)
    return tensors


def _content(info: zipfile.ZipInfo, memory: mmap.mmap) -> memoryview:
    """Return an entry's bytes in the mapped file, after checking them."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
        raise PickleError(f"its entry {info.filename} is compressed or encrypted")
    header = memory[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size:
        raise PickleError(f"its entry {info.filename} lies outside the file")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    content = memoryview(memory)[start : start + info.file_size]
    if signature != _LOCAL_HEADER_SIGNATURE or len(content) != info.file_size:
        raise PickleError(f"its entry {info.filename} lies outside the file")
    checksum = 0
    for position in range(0, len(content), _CRC_CHUNK_BYTES):
        checksum = zlib.crc32(content[position : position + _CRC_CHUNK_BYTES], checksum)
    if checksum != info.CRC:
        raise PickleError(f"the checksum of its entry {info.filename} is wrong; fetch it again")
    return content


def _storage_array(storage: StorageRecord, content: memoryview, name: str) -> NDArray[np.generic]:
    expected = storage.length * np.dtype(storage.dtype).itemsize
    if storage.length < 0 or len(content) != expected:
        raise PickleError(f"the data of {name} has {len(content)} bytes, not {expected}")
    return np.frombuffer(content, storage.dtype)


def _tensor_array(
    record: TensorRecord, storage: NDArray[np.generic], name: str
) -> NDArray[np.generic]:
    """Return the part of its storage that a tensor is, which must lie within."""
    shape, strides = record.shape, record.strides
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise PickleError(f"the shape or the strides of {name} are not usable")
    if min((record.offset, *shape, *strides)) < 0 or 0 in shape:
        raise PickleError(f"the shape or the strides of {name} are not usable")
    steps = zip(shape, strides, strict=True)
    last = record.offset + sum((length - 1) * stride for length, stride in steps)
    if last >= len(storage) or math.prod(shape) > len(storage):
        raise PickleError(f"{name} reaches beyond its data")
    return np.lib.stride_tricks.as_strided(
        storage[record.offset :],
        shape,
        [stride * storage.itemsize for stride in strides],
        writeable=False,
    )
