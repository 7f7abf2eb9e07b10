"""Read a pickled state dict without unpickling it.

Unpickling calls whatever functions a file names. This reader knows the few opcodes that a
dictionary of tensors is written with, calls nothing, and refuses everything else.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BFLOAT16 = "V2"
"""NumPy's name of what bfloat16 is held in: two bytes of no meaning to it."""

STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""NumPy's name of what each of PyTorch's storage classes holds, in the order of the file."""

# Characters of a file's own words in a message.
_MAX_TOLD = 100

# What DataParallel and DistributedDataParallel put before the names of a module's tensors.
_WRAPPED = "module."

_REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
_ORDERED_DICT = ("collections", "OrderedDict")


class PickleError(ValueError):
    """The bytes are not the pickle of a state dict."""


@dataclass(frozen=True, slots=True)
class StorageRecord:
    """A piece of memory in the checkpoint: the file's entry `data/KEY`."""

    key: str
    dtype: str
    length: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor's place in its storage, in elements, not checked against it."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    module: str
    name: str


_MARK = object()


def read_state_dict(data: bytes) -> dict[str, TensorRecord]:
    """Return the tensors that a pickled state dict names.

    Raises:
        PickleError: it is damaged, or anything but a dictionary of tensors.
    """
    try:
        state = _Machine().run(data)
    except PickleError:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise PickleError(f"it is damaged ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise PickleError("it holds no dictionary of tensors")
    state = _of_training(state)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, TensorRecord):
            raise PickleError(f"its entry {str(name)[:_MAX_TOLD]!r} is not a tensor with a name")
    if state and all(name.startswith(_WRAPPED) for name in state):
        return {name.removeprefix(_WRAPPED): value for name, value in state.items()}
    return state


def _of_training(state: dict[Any, Any]) -> dict[Any, Any]:
    """Return the state dict within what a training saved: the dictionary of the most tensors."""
    inner = [str(name) for name, value in state.items() if isinstance(value, dict)]
    if not inner:
        return state
    candidates = [value for value in (state, *state.values()) if isinstance(value, dict)]
    candidates.sort(key=_count_tensors, reverse=True)
    if _count_tensors(candidates[0]) == _count_tensors(candidates[1]):
        raise PickleError(
            f"it holds dictionaries, {', '.join(inner)[:_MAX_TOLD]!r}, and none has the most "
            "tensors; save the one that is the state dict alone: "
            "torch.save(torch.load(FILE, weights_only=True)[NAME], NEW_FILE)"
        )
    return candidates[0]


def _count_tensors(values: dict[Any, Any]) -> int:
    return sum(isinstance(value, TensorRecord) for value in values.values())


class _Machine:
    """The stack machine of the pickle format, for the opcodes in `_OPCODES`."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            handler = _OPCODES.get(opcode.name)
            if handler is None:
                raise PickleError(f"it uses the opcode {opcode.name}, which a state dict never has")
            handler(self, argument)
        raise PickleError("it ends too early")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[object]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                values = self.stack[start + 1 :]
                del self.stack[start:]
                return values
        raise PickleError("it is damaged (no mark)")

    def pop_many(self, count: int) -> tuple[object, ...]:
        if len(self.stack) < count:
            raise PickleError("it is damaged (too few values)")
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return values

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError("it is damaged (items of no dictionary)")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # An optimizer's state, in a checkpoint to be told apart, has numbers as keys.
            if not isinstance(key, (str, int)):
                raise PickleError(f"it has a key of type {type(key).__name__}")
            target[key] = value

    def append_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleError("it is damaged (items of no list)")
        target.extend(items)

    def push_global(self, module: object, name: object) -> None:
        """Name a function or class; only those that make up a state dict may be."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it is damaged (a name that is no text)")
        known = (module, name) in (_REBUILD_TENSOR, _REBUILD_PARAMETER, _ORDERED_DICT)
        if not known and not (module == "torch" and name in STORAGE_DTYPES):
            raise PickleError(
                f"it names {f'{module}.{name}'[:_MAX_TOLD]!r}, which a state dict has no use for; "
                "save that alone, in float32, float16 or bfloat16: "
                "torch.save(model.state_dict(), FILE)"
            )
        self.push(_Global(module, name))

    def push_storage(self) -> None:
        """A persistent id: ("storage", class, key, device, length)."""
        match self.stack.pop():
            case ("storage", _Global("torch", name), str(key), str(), int(length)):
                self.push(StorageRecord(key, STORAGE_DTYPES[name], length))
            case _:
                raise PickleError("it refers to something other than a tensor's storage")

    def call(self) -> None:
        """A call of a function with a tuple: carried out here, for the three known ones."""
        function, arguments = self.pop_many(2)
        match function, arguments:
            case (
                _Global("torch._utils", "_rebuild_tensor_v2"),
                (StorageRecord() as storage, int(offset), tuple(shape), tuple(strides), *_),
            ) if all(isinstance(length, int) for length in (*shape, *strides)):
                self.push(TensorRecord(storage, offset, shape, strides))
            case _Global("torch._utils", "_rebuild_parameter"), (TensorRecord() as tensor, *_):
                self.push(tensor)
            case _Global("collections", "OrderedDict"), ():
                self.push({})
            case _:
                raise PickleError("it makes something other than tensors")

    def build(self) -> None:
        """Attributes of an object: a state dict's are version numbers of no use here."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise PickleError("it sets attributes of something other than a dictionary")


_OPCODES: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.push(_MARK),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_many(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_many(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_many(3)),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.pop_many(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append_items(list(machine.pop_many(1))),
    "APPENDS": lambda machine, _: machine.append_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.push_global(*str(argument).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.push_global(*machine.pop_many(2)),
    "BINPERSID": lambda machine, _: machine.push_storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    **{
        name: lambda machine, argument: machine.push(argument)
        for name in (
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "BINFLOAT",
            "BINUNICODE",
            "SHORT_BINUNICODE",
        )
    },
    **{
        name: lambda machine, argument: machine.put(_index(argument))
        for name in ("BINPUT", "LONG_BINPUT")
    },
    **{
        name: lambda machine, argument: machine.push(machine.memo[_index(argument)])
        for name in ("BINGET", "LONG_BINGET")
    },
}


def _index(argument: object) -> int:
    assert isinstance(argument, int)  # as pickletools reads these opcodes
    return argument
