"""What a pickle would do, found out without doing it: the check before an agent file from elsewhere is loaded.

`torch.load(weights_only=True)` keeps to an allow-list, but calls what is on it with any arguments: classes are made
(`nn.Linear(10**6, 10**6)` takes terabytes) or restored (an LSTM of 10**9 layers takes hours), hooks are set, methods
replaced, modules put inside themselves. Of the files in tests/helpers/hostile_corpus.py it loads 45, and hangs or runs
out of memory on 4 (torch 2.13, with metta's and torch.nn's classes allowed).

Here the pickle is walked through with stand-ins in place of objects, and refused unless it is what saving a module
gives: classes are made bare and filled with their attributes, functions rebuild tensors of the size that the
file holds, and nothing that can be called is kept anywhere.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from metta.envs.env_spec import EnvSpec
from metta.errors import MettaError

MAX_OBJECTS = 10_000  # modules and tensors: a module takes 4 KB when loaded, a few bytes in the pickle
MAX_VALUES = 200_000  # numbers, names and the rest in all attributes, written out: what is shared counts each time
ITEM_BYTES = {
    "DoubleStorage": 8, "LongStorage": 8, "FloatStorage": 4, "IntStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}


class Refused(MettaError):
    """The pickle asks for something that no saved agent needs; the text says what."""


@dataclass(frozen=True)
class Global:
    """A class or function, by name: `module name` as the pickle has it, with a dot."""

    name: str


@dataclass(frozen=True)
class StorageId:
    """The five parts by which torch finds a storage in the file."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Storage:
    count: int  # items


@dataclass(eq=False)
class Made:
    """An object of an allowed class, or a tensor (cls None)."""

    cls: type | None
    state: dict[str, Any] | None = None


@dataclass
class Inspection:
    """A walk through a pickle. `classes`: what may be made, by dotted name; `sizes`: bytes of each storage there is."""

    classes: dict[str, type]
    sizes: dict[str, int]
    used: set[str] = field(default_factory=set)  # names of the classes that the pickle makes
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    hooks: list[dict[Any, Any]] = field(default_factory=list)  # dictionaries that must be empty at the end
    storage_types: dict[str, str] = field(default_factory=dict)

    def run(self, pickle: bytes) -> None:
        """Refused names what a saved agent would not have; other exceptions mean that this is no pickle."""
        for opcode, argument, position in pickletools.genops(pickle):
            name = opcode.name
            if name == "PROTO":
                if argument != 2 or position != 0:
                    raise Refused(f"pickle protocol {argument}, where torch.save writes 2")
            elif name == "STOP":
                if position != len(pickle) - 1:
                    raise Refused("bytes after the end of the pickle")
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in VALUES:
                self.stack.append(argument)
            else:
                handler = HANDLERS.get(name)
                if handler is None:
                    raise Refused(f"pickle instruction {name}, which torch.save never writes")
                handler(self, argument)
        self.check_end()

    def global_(self, argument: str) -> None:
        name = argument.replace("__builtin__ ", "builtins ").replace(" ", ".", 1)
        module, _, attribute = argument.partition(" ")
        storage = module == "torch" and attribute in ITEM_BYTES
        if name not in self.classes and name not in CALLS and not storage:
            raise Refused(f"global {name}")
        self.stack.append(Global(name))

    def new_object(self, _: Any) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if not isinstance(cls, Global) or cls.name not in self.classes:
            raise Refused(f"a new object of {describe(cls)}")
        if arguments != ():
            raise Refused(f"arguments to {cls.name}")
        self.used.add(cls.name)
        self.stack.append(self.make(self.classes[cls.name]))

    def make(self, cls: type | None) -> Made:
        self.made.append(Made(cls))
        if len(self.made) > MAX_OBJECTS:
            raise Refused(f"more than {MAX_OBJECTS} modules and tensors")
        return self.made[-1]

    def build(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, Made) or made.cls is None or made.state is not None:
            raise Refused(f"attributes given to {describe(made)}")
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise Refused(f"attributes of {made.cls.__name__} that are not a dictionary of names")
        if issubclass(made.cls, nn.RNNBase):  # or its __setstate__ makes as many names as num_layers says
            names = state.get("_all_weights")
            if not (type(names) is list and names and type(names[0]) is list and type((names[0] or [0])[0]) is str):
                raise Refused(f"{made.cls.__name__} without names of its weights")
        made.state = dict(state)  # as loading does: what is put into `state` later does not reach the object

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        call = CALLS.get(function.name) if isinstance(function, Global) else None
        if call is None or type(arguments) is not tuple:
            raise Refused(f"a call of {describe(function)}")
        try:
            self.stack.append(call(self, *arguments))
        except TypeError as error:
            raise Refused(f"arguments to {describe(function)}") from error

    def tuple_(self, count: int | None) -> None:
        if count is None:
            items = self.pop_mark()
        else:
            items = [self.stack.pop() for _ in range(count)][::-1]
        if len(items) == 5 and items[0] == "storage" and isinstance(items[1], Global):
            self.stack.append(StorageId((items[1].name.removeprefix("torch."), *plain(items[2:]))))
        else:
            self.stack.append(tuple(plain(items)))

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise Refused(f"an item set in {describe(self.stack[-1])}")
        for key, value in zip(items[::2], plain(items[1::2]), strict=True):
            if type(key) not in (str, int):
                raise Refused(f"{describe(key)} as a key")
            self.stack[-1][key] = value

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused(f"an item appended to {describe(self.stack[-1])}")
        self.stack[-1].extend(plain(items))

    def storage(self, _: Any) -> None:
        identity = self.stack.pop()
        if not isinstance(identity, StorageId):
            raise Refused(f"{describe(identity)} as a storage")
        kind, key, location, count = identity.parts
        if kind not in ITEM_BYTES or type(key) is not str or type(location) is not str or type(count) is not int:
            raise Refused(f"storage of kind {kind}")
        if self.storage_types.setdefault(key, kind) != kind:
            raise Refused(f"storage {key} of two kinds")
        if count * ITEM_BYTES[kind] != self.sizes.get(key):
            have = f"has {self.sizes[key]}" if key in self.sizes else "has no such entry"
            raise Refused(f"storage {key} of {count * ITEM_BYTES[kind]} bytes, where the file {have}")
        self.stack.append(Storage(count))

    def rebuild_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> Made:
        """`torch._utils._rebuild_tensor_v2`, which lets a tensor of 10**12 values repeat a storage of one."""
        numbers = (offset, *size, *stride) if type(size) is type(stride) is tuple else (None,)
        if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise Refused("a tensor without a storage, sizes and strides")
        if len(size) != len(stride) or type(requires_grad) is not bool or metadata:
            raise Refused("a tensor with more than sizes and strides")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > 0 and (last >= storage.count or math.prod(size) > storage.count):
            raise Refused(f"a tensor of {math.prod(size)} values over a storage of {storage.count}")
        self.empty(hooks)
        return self.make(None)

    def rebuild_parameter(self, tensor: Any, requires_grad: Any, hooks: Any) -> Made:
        if not isinstance(tensor, Made) or tensor.cls is not None or type(requires_grad) is not bool:
            raise Refused("a parameter that is no tensor")
        self.empty(hooks)
        return self.make(None)

    def empty(self, hooks: Any) -> None:
        if type(hooks) is not dict:
            raise Refused(f"{describe(hooks)} as hooks of a tensor")
        self.hooks.append(hooks)

    def ordered_dict(self) -> dict[Any, Any]:
        return {}

    def set_of_names(self, names: Any) -> tuple[str, ...]:
        if type(names) is not list or not all(type(name) is str for name in names):
            raise Refused("a set of anything but names")
        return tuple(names)

    def check_end(self) -> None:
        """What must hold of the whole, whatever was changed after it was first seen."""
        if self.marks or len(self.stack) != 1:
            raise Refused("more than one object")
        top = self.stack[0]
        if not isinstance(top, Made) or top.cls is None or not issubclass(top.cls, nn.Module):
            raise Refused(f"{describe(top)} where an agent (an nn.Module) should be")
        if any(self.hooks):
            raise Refused("hooks on a tensor")
        objects = [(made.cls, made.state) for made in self.made if made.cls is not None]
        for cls, state in objects:
            check_object(cls, state)
        check_size([state for _, state in objects])
        modules = [state for cls, state in objects if state and issubclass(cls, nn.Module)]
        parts = [part for state in modules for part in state["_modules"].values() if part is not None]
        places = [id(part) for part in (top, *parts)]
        if len(set(places)) != len(places):
            raise Refused("a module in two places, or inside itself")


def check_size(values: list[Any]) -> None:
    """Refused if printing or comparing these values could take for ever: a list of ten lists of ten lists and so on."""
    count = 0
    while values:
        value = values.pop()
        items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        count += len(items)
        if count > MAX_VALUES:
            raise Refused(f"more than {MAX_VALUES} values")
        values.extend(items)


def check_object(cls: type, state: dict[str, Any] | None) -> None:
    """Refused unless `state` can be the attributes of an object of `cls` that does nothing but what its class does."""
    if state is None:
        raise Refused(f"{cls.__name__} without attributes")
    for key, value in state.items():
        if ("hook" in key or "_call_impl" in key) and value is not None and value is not False and value != {}:
            raise Refused(f"hooks on {cls.__name__} ({key})")
        if key.startswith("__") or callable(getattr(cls, key, None)):
            raise Refused(f"{cls.__name__}.{key} replaced")
    if issubclass(cls, nn.Module):
        for key, allowed in (("_parameters", is_tensor), ("_buffers", is_tensor), ("_modules", is_module)):
            held = state.get(key)
            if type(held) is not dict or not all(value is None or allowed(value) for value in held.values()):
                raise Refused(f"{cls.__name__} with {key} that are something else")
    if cls is EnvSpec and ":" in str(state.get("name", ":")):
        raise Refused(f"an environment called {state.get('name')}, which would import a module")


def is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and value.cls is None


def is_module(value: Any) -> bool:
    return isinstance(value, Made) and value.cls is not None and issubclass(value.cls, nn.Module)


def plain(items: list[Any]) -> list[Any]:
    """The items; Refused if one is a class or a function, which are to be used, not kept."""
    for item in items:
        if isinstance(item, Global | StorageId):
            raise Refused(f"{describe(item)} kept as a value")
    return items


def describe(value: Any) -> str:
    if isinstance(value, Global):
        return value.name
    if isinstance(value, Made):
        return "a tensor" if value.cls is None else f"an object of {value.cls.__name__}"
    if isinstance(value, StorageId):
        return f"storage class {value.parts[0]}"
    return f"a value of type {type(value).__name__}"


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": Inspection.ordered_dict,
    "builtins.set": Inspection.set_of_names,
    "torch._utils._rebuild_tensor_v2": Inspection.rebuild_tensor,
    "torch._utils._rebuild_parameter": Inspection.rebuild_parameter,
}
HANDLERS: dict[str, Callable[[Inspection, Any], None]] = {
    "GLOBAL": Inspection.global_,
    "NEWOBJ": Inspection.new_object,
    "REDUCE": Inspection.call,
    "BUILD": Inspection.build,
    "BINPERSID": Inspection.storage,
    "MARK": Inspection.mark,
    "TUPLE": lambda self, _: self.tuple_(None),
    "TUPLE1": lambda self, _: self.tuple_(1),
    "TUPLE2": lambda self, _: self.tuple_(2),
    "TUPLE3": lambda self, _: self.tuple_(3),
    "EMPTY_LIST": lambda self, _: self.stack.append([]),
    "EMPTY_DICT": lambda self, _: self.stack.append({}),
    "APPEND": lambda self, _: self.append([self.stack.pop()]),
    "APPENDS": lambda self, _: self.append(self.pop_mark()),
    "SETITEM": lambda self, _: self.set_items([self.stack.pop(), self.stack.pop()][::-1]),
    "SETITEMS": lambda self, _: self.set_items(self.pop_mark()),
    "BINPUT": lambda self, index: self.memo.__setitem__(index, self.stack[-1]),
    "LONG_BINPUT": lambda self, index: self.memo.__setitem__(index, self.stack[-1]),
    "BINGET": lambda self, index: self.stack.append(self.memo[index]),
    "LONG_BINGET": lambda self, index: self.stack.append(self.memo[index]),
}
