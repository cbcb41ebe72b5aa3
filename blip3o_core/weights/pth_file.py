"""One .pth file as torch.save writes it: a zip of raw numbers, and a pickle that says which of them are which tensor.

A pickle is a program whose steps may import and call anything. It is not run here: its steps are read one by one, and
only those exist that build dicts, lists and plain tensors. A name in the file is compared with the few names below; it
is never imported. Tensors become the places where their numbers lie, so that a file takes no more memory than it has
bytes, whatever it claims. No setting of PyTorch's own reader is touched: those hold for every pack in the process.
"""

import pickletools
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import Blip3oError, shown
from ..files import open_regular
from .safetensors_file import DTYPES, TensorEntry, stamp_of

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
DICTS = ("collections.OrderedDict", "easydict.EasyDict")  # attribute access is all that EasyDict adds
NAMES = {*STORAGES, TENSOR, PARAMETER, *DICTS}

_PICKLE_LIMIT = 2 * 2**20  # bytes; TA-Tok's has 0.06 MB
_DIRECTORY_LIMIT = 16 * 2**20  # bytes of the zip's table of contents
_STORED = 0  # the zip's method "not compressed"


class _Damaged(Exception):
    """What is wrong with the file, in words that follow "Cannot read ...: "."""


class _Refused(Exception):
    """A name or a step that is not among those that are read."""


def read_pth(path: Path, remedy: str) -> Any:
    """What a .pth file holds: dicts, lists, numbers and text, with a TensorEntry, not named yet, for each tensor.

    Raises Blip3oError, which ends with `remedy`, for a file that is damaged or holds anything more.
    """
    with open_regular(path, remedy) as handle:
        stamp = stamp_of(handle)
        try:
            return _Steps(_Zip(handle, stamp[0]), path, stamp).run()
        except _Refused as error:
            raise Blip3oError(
                f"{path} is refused: besides plain tensors it contains {error}. Such a thing can run code on this "
                f"machine when it is read. {remedy}"
            ) from None
        except (_Damaged, ArithmeticError, LookupError, TypeError, ValueError, OSError, struct.error) as error:
            reason = str(error) if isinstance(error, _Damaged) else "its parts do not fit together"
            raise Blip3oError(
                f"Cannot read {path} ({stamp[0]:,} bytes) as a file of weights: {reason}. It is damaged, cut short, or "
                f"could run code. {remedy}"
            ) from error


class _Record(NamedTuple):
    start: int  # byte of the file
    size: int
    checksum: int


class _Zip:
    """Where the members of a zip lie. Only members that are not compressed: no file grows when it is read."""

    def __init__(self, handle: BinaryIO, size: int):
        self._handle, self._size = handle, size
        self.records = dict(self._entries(self._directory()))

    def read(self, record: _Record) -> bytes:
        return self._bytes(record.start, record.size)

    def _bytes(self, start: int, count: int) -> bytes:
        if not 0 <= start <= start + count <= self._size:
            raise _Damaged(f"it names {count:,} bytes from byte {start:,} on")
        self._handle.seek(start)
        return self._handle.read(count)

    def _directory(self) -> bytes:
        """The table of contents, which lies at the end; its place is written behind it, for large files twice."""
        tail_start = max(0, self._size - 2**16)
        tail = self._bytes(tail_start, self._size - tail_start)
        at = tail.rfind(b"PK\5\6")
        if at < 0:
            raise _Damaged("it is not a zip file, which torch.save writes")
        length, start, comment = struct.unpack_from("<2LH", tail, at + 12)
        if at + 22 + comment != len(tail):
            raise _Damaged("its end is cut off, or not its own")
        if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
            (place,) = struct.unpack_from("<Q", tail, at - 12)
            record = self._bytes(place, 56)
            if record[:4] == b"PK\6\6":
                length, start = struct.unpack_from("<2Q", record, 40)
        if length > _DIRECTORY_LIMIT:
            raise _Damaged(f"its table of contents would have {length:,} bytes")
        return self._bytes(start, length)

    def _entries(self, directory: bytes):
        at = 0
        while at < len(directory):
            mark, flags, method, checksum, packed, size, *lengths, start = struct.unpack_from(
                "<4s4x2H4x3L3H8xL", directory, at
            )
            if mark != b"PK\1\2":
                raise _Damaged("its table of contents is damaged")
            name_end = at + 46 + lengths[0]
            name = directory[at + 46 : name_end].decode("utf-8", "replace")
            extra = directory[name_end : name_end + lengths[1]]
            size, packed, start = _large([size, packed, start], extra)
            if method != _STORED or flags & 1 or size != packed:
                raise _Damaged(f"{shown(name, 60)} in it is compressed or encrypted, as torch.save never does")
            yield name, self._located(start, size, checksum)
            at = name_end + lengths[1] + lengths[2]

    def _located(self, start: int, size: int, checksum: int) -> _Record:
        """The member behind its own header at `start`."""
        header = self._bytes(start, 30)
        mark, name, extra = struct.unpack("<4s22x2H", header)
        first = start + 30 + name + extra
        if mark != b"PK\3\4" or first + size > self._size:
            raise _Damaged(f"{size:,} bytes that it names from byte {start:,} on are not there")
        return _Record(first, size, checksum)


def _large(values: list[int], extra: bytes) -> list[int]:
    """Sizes and places of 4 GB and more, which stand in a field of their own."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            return [next(numbers, 0) if value == 0xFFFFFFFF else value for value in values]
        at += 4 + length
    return values


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A member of the zip as a row of numbers."""

    dtype: str
    start: int
    size: int  # bytes


class _Steps:
    """The steps of a pickle that build dicts, lists and tensors, on a stack as the format describes it."""

    def __init__(self, zip: _Zip, path: Path, stamp: tuple[int, ...]):
        names = [name for name in zip.records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(names) != 1:
            raise _Damaged("it is a zip file, but not one that torch.save wrote")
        self._zip, self._path, self._stamp = zip, path, stamp
        self._folder = names[0].removesuffix("data.pkl")
        self._stack: list = []
        self._below: list[list] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}
        self._total = 0  # bytes of all tensors so far

    def run(self) -> Any:
        record = self._zip.records[f"{self._folder}data.pkl"]
        if record.size > _PICKLE_LIMIT:
            raise _Damaged(f"its list of tensors has {record.size:,} bytes; at most {_PICKLE_LIMIT:,} make sense")
        order = self._zip.records.get(f"{self._folder}byteorder")
        if order is not None and order.size < 100 and self._zip.read(order) != b"little":
            raise _Damaged("its numbers are stored in the byte order of other computers")
        content = self._zip.read(record)
        if zlib.crc32(content) != record.checksum:
            raise _Damaged("the checksum of its list of tensors is wrong")
        for step, argument, _ in pickletools.genops(content):
            if step.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[step.name])
            elif step.name in _VALUES:
                self._stack.append(argument)
            elif method := _METHODS.get(step.name):
                method(self, argument)
            else:
                raise _Refused(f"the pickle step {step.name}")
        return self._stack.pop()

    def nothing(self, argument: Any) -> None:
        pass

    def new_dict(self, argument: Any) -> None:
        self._stack.append({})

    def new_list(self, argument: Any) -> None:
        self._stack.append([])

    def mark(self, argument: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _last(self, count: int) -> list:
        items = [self._stack.pop() for _ in range(count)]
        return items[::-1]

    def tuple_since_mark(self, argument: Any) -> None:
        items = self._since_mark()  # changes the stack
        self._stack.append(tuple(items))

    def tuple_of_one(self, argument: Any) -> None:
        self._stack.append(tuple(self._last(1)))

    def tuple_of_two(self, argument: Any) -> None:
        self._stack.append(tuple(self._last(2)))

    def tuple_of_three(self, argument: Any) -> None:
        self._stack.append(tuple(self._last(3)))

    def append(self, argument: Any) -> None:
        self._put_in_list(self._last(1))

    def appends(self, argument: Any) -> None:
        self._put_in_list(self._since_mark())

    def _put_in_list(self, items: list) -> None:
        if type(self._stack[-1]) is not list:
            raise _Damaged("it adds items to other things than lists")
        self._stack[-1].extend(items)

    def set_item(self, argument: Any) -> None:
        self._put_in_dict(self._last(2))

    def set_items(self, argument: Any) -> None:
        self._put_in_dict(self._since_mark())

    def _put_in_dict(self, items: list) -> None:
        keys = items[::2]
        if type(self._stack[-1]) is not dict or not all(type(key) in (str, int) for key in keys):
            raise _Damaged("it names things by other than text and numbers")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def name(self, argument: str) -> None:
        name = argument.replace(" ", ".", 1)
        if name not in NAMES:
            raise _Refused(shown(name))
        self._stack.append(_Name(name))

    def attributes(self, argument: Any) -> None:
        """A dict's attributes are its items once more."""
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise _Damaged("it sets attributes of other things than dicts")

    def call(self, argument: Any) -> None:
        called, arguments = self._last(2)
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise _Damaged("it calls other things than functions")
        if called.name in DICTS and arguments == ():
            self._stack.append({})
        elif called.name == PARAMETER and isinstance(arguments[0], TensorEntry):
            self._stack.append(arguments[0])
        elif called.name == TENSOR:
            self._stack.append(self._tensor(*arguments[:4]))
        else:
            raise _Refused(f"{called.name} called with {len(arguments)} values")

    def storage(self, argument: Any) -> None:
        kind, dtype, key, _, count = self._stack.pop()
        if kind != "storage" or not isinstance(dtype, _Name) or dtype.name not in STORAGES or type(key) is not str:
            raise _Damaged("it describes its numbers in an unknown way")
        record = self._zip.records.get(f"{self._folder}data/{key}")
        code = STORAGES[dtype.name]
        if record is None or type(count) is not int or count * DTYPES[code].itemsize != record.size:
            raise _Damaged(f"the numbers {shown(key, 60)} are not there, or more or fewer than it says")
        self._stack.append(_Storage(code, record.start, record.size))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> TensorEntry:
        if not isinstance(storage, _Storage) or not all(isinstance(one, tuple) for one in (shape, strides)):
            raise _Damaged("it describes a tensor in an unknown way")
        if any(type(one) is not int or not 0 <= one < 2**48 for one in (offset, *shape, *strides)) or len(shape) > 16:
            raise _Damaged(f"a tensor in it has the shape {shown(shape)}")
        expected, dense = 1, len(shape) == len(strides)
        for size, stride in zip(reversed(shape), reversed(strides), strict=False):
            dense = dense and (size <= 1 or stride == expected)
            expected *= max(size, 1)
        if not dense:
            raise _Damaged(f"a tensor of {shown(shape)} in it repeats or skips numbers, with strides {shown(strides)}")
        item = DTYPES[storage.dtype].itemsize
        start, nbytes = offset * item, prod(shape) * item
        self._total += nbytes
        if start + nbytes > storage.size:
            raise _Damaged(f"a tensor of {shown(shape)} in it is larger than its {storage.size:,} bytes")
        if self._total > 2 * self._stamp[0]:
            raise _Damaged("its tensors use the same numbers again and again")
        return TensorEntry(self._path, "", shape, storage.dtype, nbytes, storage.start + start, self._stamp)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_METHODS: dict[str, Callable[[_Steps, Any], None]] = {
    "PROTO": _Steps.nothing,
    "STOP": _Steps.nothing,
    "EMPTY_DICT": _Steps.new_dict,
    "EMPTY_LIST": _Steps.new_list,
    "MARK": _Steps.mark,
    "TUPLE": _Steps.tuple_since_mark,
    "TUPLE1": _Steps.tuple_of_one,
    "TUPLE2": _Steps.tuple_of_two,
    "TUPLE3": _Steps.tuple_of_three,
    "APPEND": _Steps.append,
    "APPENDS": _Steps.appends,
    "SETITEM": _Steps.set_item,
    "SETITEMS": _Steps.set_items,
    "BINPUT": _Steps.remember,
    "LONG_BINPUT": _Steps.remember,
    "BINGET": _Steps.recall,
    "LONG_BINGET": _Steps.recall,
    "GLOBAL": _Steps.name,
    "BUILD": _Steps.attributes,
    "REDUCE": _Steps.call,
    "NEWOBJ": _Steps.call,
    "BINPERSID": _Steps.storage,
}
