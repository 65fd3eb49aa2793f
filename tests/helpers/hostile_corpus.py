"""Hostile agent files, made byte by byte: used by test_hostile_files.py.

CODE are those that run code when loaded with trust: they make a file `canary` in the working folder, with the shell or
with `hostile_module.touch`. OTHER are the rest. Each name leads to (content, what the refusal must name).
"""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvSpec

SPEC = EnvSpec("CartPole-v1", {}, 1, "vector", (4,), "float32", 2)
HOSTILE_MODULE = """
from torch import nn
def touch(path): open(path, "w").close()
class Setstate:
    def __setstate__(self, path): touch(path)
class New:
    def __new__(cls, path): touch(path); return object.__new__(cls)
class Init:
    def __init__(self, path): touch(path)
class CustomAgent(nn.Module):
    def __init__(self): super().__init__(); self.layer = nn.Linear(2, 2)
"""


# A pickle, piece by piece: each function gives the instructions that push one object.


def ref(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)


def tup(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dictionary(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: str | bytes, *arguments: bytes) -> bytes:
    return (ref(function) if isinstance(function, str) else function) + tup(*arguments) + b"R"


def new(name: str, state: bytes) -> bytes:
    return ref(name) + b")\x81" + state + b"b"


def module(cls: str = "torch.nn.modules.linear.Identity", /, **attributes: bytes) -> bytes:
    state = {"training": b"\x88", "_parameters": b"}", "_buffers": b"}", "_modules": b"}"}
    return new(cls, dictionary(state | attributes))


def storage(count: int = 4, kind: str = "torch.FloatStorage", key: str = "0") -> bytes:
    return tup(text("storage"), ref(kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    size: int = 4, stride: int = 1, offset: bytes = b"K\0", hooks: bytes = b"}", of: bytes | None = None
) -> bytes:
    """A one-dimensional tensor over storage 0, which has 4 floats in every file made here."""
    shape = tup(number(size)), tup(number(stride))
    return call("torch._utils._rebuild_tensor_v2", of or storage(), offset, *shape, b"\x89", hooks)


def parameter(of: bytes, hooks: bytes = b"}") -> bytes:
    return call("torch._utils._rebuild_parameter", of, b"\x88", hooks)


def buffer(content: bytes) -> bytes:
    """A module with one buffer."""
    return module(_buffers=dictionary({"scale": content}))


def archive(content: bytes, extra: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it, with this as its pickle. `extra` adds or replaces entries."""
    entries = {"data.pkl": content, "byteorder": b"little", "data/0": struct.pack("<4f", 1, 2, 3, 4), "version": b"3\n"}
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as file:
        for name, value in (entries | (extra or {})).items():
            file.writestr(f"agent/{name}", value)
    return output.getvalue()


def pickled(body: bytes) -> bytes:
    return archive(b"\x80\x02" + body + b".")


def legacy(body: bytes) -> bytes:
    """torch's format before zip: magic number, protocol, system information, the object, storage keys."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + b"\x80\x02" + body + b"." + pickle.dumps([], 2)


def saved(agent: object) -> bytes:
    output = io.BytesIO()
    torch.save(agent, output)
    return output.getvalue()


def as_bytes(content: bytes) -> bytes:
    """A bytes object, as protocol 2 has it."""
    return call("_codecs.encode", text(content.decode("latin1")), text("latin1"))


SOUND = saved(PolicyAgent(SPEC, hidden_size=4))
SHELL, SCRIPT, PATH = text("touch canary"), text("open('canary', 'w').close()"), text("canary")
OS = call("__builtin__.__import__", text("os"))
TOUCH = call("hostile_module.touch", PATH)
TOUCHED = "global hostile_module.touch"

CODE: dict[str, tuple[bytes, str]] = {
    "os_system": (pickled(call("os.system", SHELL)), "global os.system"),
    "posix_system": (pickled(call("posix.system", SHELL)), "global posix.system"),
    "popen": (pickled(call("subprocess.call", listed(text("touch"), PATH))), "global subprocess.call"),
    "eval": (pickled(call("__builtin__.eval", SCRIPT)), "global builtins.eval"),
    "exec": (pickled(call("builtins.exec", SCRIPT)), "global builtins.exec"),
    "import": (pickled(tup(call("importlib.import_module", text("os")), TOUCH)), "global importlib.import_module"),
    "getattr": (pickled(call(call("__builtin__.getattr", OS, text("system")), SHELL)), "global builtins.getattr"),
    "attrgetter": (
        pickled(call(call(call("operator.attrgetter", text("system")), OS), SHELL)),
        "global operator.attrgetter",
    ),
    "methodcaller": (pickled(call(call("operator.methodcaller", text("system"), SHELL), OS)), "operator.methodcaller"),
    "partial": (pickled(call(call("functools.partial", ref("os.system"), SHELL))), "global functools.partial"),
    "map": (
        pickled(call("builtins.list", call("builtins.map", ref("os.system"), listed(SHELL)))),
        "global builtins.list",
    ),
    "runpy": (pickled(call("runpy._run_code", SCRIPT, b"}")), "global runpy._run_code"),
    "timeit": (pickled(call("timeit.timeit", SCRIPT, text("0"), ref("time.time"), b"K\1")), "global timeit.timeit"),
    "inst": (pickled(b"(" + PATH + b"ihostile_module\ntouch\n"), "instruction INST"),
    "obj": (pickled(b"(" + ref("hostile_module.touch") + PATH + b"o"), TOUCHED),
    "obj_in_agent": (pickled(module(a=b"(" + ref("torch.nn.modules.linear.Identity") + b"o", b=TOUCH)), "OBJ"),
    "newobj": (pickled(ref("hostile_module.New") + tup(PATH) + b"\x81"), "global hostile_module.New"),
    "newobj_ex": (pickled(ref("hostile_module.New") + tup(PATH) + b"}\x92"), "global hostile_module.New"),
    "newobj_ex_known": (pickled(tup(ref("collections.OrderedDict") + b")}\x92", TOUCH)), "instruction NEWOBJ_EX"),
    "stack_global": (pickled(call(b"S'os'\nS'system'\n\x93", SHELL)), "instruction STRING"),
    "short_text": (pickled(call(b"\x8c\x02os\x8c\x06system\x93", SHELL)), "instruction SHORT_BINUNICODE"),
    "stack_global_text": (pickled(call(text("os") + text("system") + b"\x93", SHELL)), "instruction STACK_GLOBAL"),
    "protocol_4": (archive(b"\x80\x04" + call("os.system", SHELL) + b"."), "pickle protocol 4"),
    "framed": (archive(b"\x80\x02\x95" + struct.pack("<Q", 400) + TOUCH + b"." + b" " * 400), "instruction FRAME"),
    "setstate": (pickled(ref("hostile_module.Setstate") + b")\x81" + PATH + b"b"), "global hostile_module.Setstate"),
    "constructor": (pickled(call("hostile_module.Init", PATH)), "global hostile_module.Init"),
    "reconstructor": (
        pickled(call("copy_reg._reconstructor", ref("hostile_module.New"), ref("__builtin__.object"), b"N") + TOUCH),
        "global copy_reg._reconstructor",
    ),
    "in_attribute": (pickled(module(weight=TOUCH)), TOUCHED),
    "in_key": (pickled(module(table=b"}" + TOUCH + b"Ns")), TOUCHED),
    "in_submodule": (pickled(module(_modules=dictionary({"layer": TOUCH}))), TOUCHED),
    "in_offset": (pickled(buffer(tensor(offset=TOUCH))), TOUCHED),
    "in_hooks": (pickled(buffer(tensor(hooks=TOUCH))), TOUCHED),
    "in_storage_id": (pickled(tup(text("storage"), TOUCH, text("0"), text("cpu"), b"K\4") + b"Q"), TOUCHED),
    "text_storage_id": (pickled(tup(TOUCH, b"Pstorage\n")), TOUCHED),
    "before_agent": (pickled(TOUCH + b"0" + module()), TOUCHED),
    "in_two_steps": (pickled(ref("hostile_module.touch") + b"q\x05" + tup(call(b"h\x05", PATH), module())), TOUCHED),
    "pickle_loads": (pickled(call("pickle.loads", as_bytes(b"\x80\x02" + TOUCH + b"."))), "global pickle.loads"),
    "pickle_in_bytes": (
        pickled(tup(as_bytes(b"\x80\x02" + TOUCH + b".") + b"q\1", call("_pickle.loads", b"h\1"))),
        "global _codecs.encode",
    ),
    "storage_in_bytes": (
        pickled(call("torch.storage._load_from_bytes", as_bytes(legacy(TOUCH)))),
        "global torch.storage._load_from_bytes",
    ),
    "raw_pickle": (b"\x80\x02" + TOUCH + b".", "does not begin and end"),
    "legacy": (legacy(TOUCH), "does not begin and end"),
    "legacy_before_zip": (legacy(TOUCH) + SOUND, "does not begin and end"),
    "second_pickle_hidden": (archive(b"\x80\x02" + TOUCH + b"." + b"\x80\x02" + module() + b"."), TOUCHED),
}  # fmt: skip


def patched(content: bytes, field: int, value: int, size: str = "<H", entry: str = "data.pkl") -> bytes:
    """`content` with a field of that entry's records changed; `field`: its place in the zip's list of entries."""
    data = bytearray(content)
    name = f"agent/{entry}".encode()
    central = data.rindex(name) - 46
    struct.pack_into(size, data, central + field, value)
    local = struct.unpack_from("<I", data, central + 42)[0]
    struct.pack_into(size, data, local + field - 2, value)  # the fields up to the name's length are the same, 2 earlier
    return bytes(data)


def flipped(content: bytes, near: bytes) -> bytes:
    place = content.index(near)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def tarred(body: bytes) -> bytes:
    """torch's format before the last one: a tar of pickles."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, content in (("sys_info", pickle.dumps({})), ("pickle", body), ("storages", b""), ("tensors", b"")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def chain(depth: int) -> bytes:
    """Modules inside each other."""
    body = module()
    for _ in range(depth):
        body = module(_modules=dictionary({"inner": body}))
    return body


def laughs(depth: int) -> bytes:
    """A list of ten times a list of ten times a list and so on: 10 ** depth values when written out."""
    body = listed(b"K\1" * 10)
    for level in range(depth):
        body = listed(body + b"q" + bytes([level]) + (b"h" + bytes([level])) * 9)
    return body


def env_spec(**fields: bytes) -> bytes:
    return new("metta.envs.env_spec.EnvSpec", dictionary({"name": text("arena"), "settings": b"}"} | fields))


def holder(inner: bytes, **attributes: bytes) -> bytes:
    """A module with one inside, and attributes that are read after it."""
    return module(_modules=dictionary({"inner": inner}), **attributes)


IDENTITY, LINEAR = "torch.nn.modules.linear.Identity", "torch.nn.modules.linear.Linear"
HOOK = b"}K\0" + module() + b"s"  # a dictionary with one hook, a module: modules can be called
BARE = pickled(module())
MANY = {f"data/{i}": b"" for i in range(1, 20_000)}

OTHER: dict[str, tuple[bytes, str]] = {
    # Code that would run later, when the agent is called, copied or saved.
    "forward_hook": (pickled(module(_forward_hooks=HOOK)), "hooks on Identity (_forward_hooks)"),
    "forward_pre_hook": (pickled(module(_forward_pre_hooks=HOOK)), "hooks on Identity (_forward_pre_hooks)"),
    "state_dict_hook": (pickled(module(_state_dict_hooks=HOOK)), "hooks on Identity (_state_dict_hooks)"),
    "load_hook": (pickled(module(_load_state_dict_post_hooks=HOOK)), "hooks on Identity (_load_state_dict_post_hooks)"),
    "hook_put_in_late": (
        pickled(holder(module(_forward_hooks=b"}q\1"), note=b"h\1K\0" + module() + b"s")),
        "hooks on Identity (_forward_hooks)",
    ),
    "hook_taken_out_late": (
        pickled(holder(ref(IDENTITY) + b")\x81}q\1(" + text("_forward_hooks") + HOOK + b"ub",
                       note=b"h\1" + text("_forward_hooks") + b"}s")),
        "hooks on Identity (_forward_hooks)",
    ),
    "partial_as_hook": (
        pickled(module(_forward_hooks=b"}K\0" + call("functools.partial", OS) + b"s")),
        "functools.partial",
    ),
    "tensor_hook": (pickled(buffer(tensor(hooks=HOOK))), "hooks on a tensor"),
    "parameter_hook": (pickled(module(_parameters=dictionary({"w": parameter(tensor(), HOOK)}))), "hooks on a tensor"),
    "tensor_hook_put_in_late": (
        pickled(holder(buffer(tensor(hooks=b"}q\1")), note=b"h\1K\0" + module() + b"s")),
        "hooks on a tensor",
    ),
    "compiled_call": (pickled(module(_compiled_call_impl=module())), "hooks on Identity (_compiled_call_impl)"),
    "forward_replaced": (pickled(module(forward=module())), "Identity.forward replaced"),
    "class_replaced": (pickled(module(__class__=text("x"))), "Identity.__class__ replaced"),
    "class_kept": (pickled(module(activation=ref(LINEAR))), "torch.nn.modules.linear.Linear kept as a value"),
    "function_kept": (
        pickled(module(f=listed(ref("collections.OrderedDict")))),
        "collections.OrderedDict kept as a value",
    ),
    "storage_class_kept": (
        pickled(module(f=tup(text("storage"), ref("torch.FloatStorage"), text("0"), text("cpu"), b"K\4"))),
        "storage class FloatStorage kept as a value",
    ),
    "env_imports_module": (
        pickled(module(env=env_spec(name=text("hostile_module:x")))),
        "environment called hostile_module:x",
    ),
    # Classes of one's own: harmless or not, they are code that came with the file or lies around here.
    "custom_class": (pickled(module("hostile_module.CustomAgent")), "global hostile_module.CustomAgent"),
    "class_by_value": (
        pickled(call("cloudpickle.cloudpickle._make_skeleton_class")),
        "cloudpickle._make_skeleton_class",
    ),
    "function_by_value": (pickled(call("types.FunctionType")), "global types.FunctionType"),
    "marshal": (pickled(call("marshal.loads", as_bytes(b"N"))), "global marshal.loads"),
    "torch_load": (pickled(call("torch.serialization.load", PATH)), "global torch.serialization.load"),
    "hub": (pickled(call("torch.hub.load", text("a/b"), text("c"))), "global torch.hub.load"),
    "pip": (pickled(call("pip.main", listed(text("install"), text("x")))), "global pip.main"),
    "from_type": (pickled(call("torch._tensor._rebuild_from_type_v2")), "global torch._tensor._rebuild_from_type_v2"),
    "name_with_dots": (pickled(call("torch.nn.modules.linear.Linear.__init__.__globals__")), "__globals__"),
    "name_for_terminal": (pickled(ref("os.\x1b[2Jsystem")), "global os.?[2Jsystem"),
    "name_of_lines": (pickled(storage(key="1\n\n1")), "storage 1 1 of 16 bytes"),
    "name_without_end": (pickled(ref("os." + "x" * 500_000)), "global os.xxxxxxxxxx"),
    "extension": (pickled(b"\x82\1"), "instruction EXT1"),
    # Memory.
    "huge_layer": (pickled(call(LINEAR, number(10**6), number(10**6))), "a call of torch.nn.modules.linear.Linear"),
    "huge_new_layer": (
        pickled(ref(LINEAR) + tup(number(10**6)) + b"\x81"),
        "arguments to torch.nn.modules.linear.Linear",
    ),
    "huge_agent": (
        pickled(call("metta.agent.policy_agent.PolicyAgent", env_spec(), number(10**9))),
        "a call of metta.agent.policy_agent.PolicyAgent",
    ),
    "huge_zeros": (pickled(call("torch.zeros", number(10**12))), "global torch.zeros"),
    "huge_bytearray": (pickled(call("builtins.bytearray", number(10**12))), "global builtins.bytearray"),
    "huge_storage": (
        pickled(buffer(tensor(of=storage(10**12)))),
        "storage 0 of 4000000000000 bytes, where the file has 16",
    ),
    "absent_storage": (pickled(buffer(tensor(of=storage(4, key="7")))), "where the file has no such entry"),
    "storage_of_two_kinds": (
        pickled(tup(tensor(2, of=storage(2, "torch.DoubleStorage")), tensor(16, of=storage(16, "torch.ByteStorage")))),
        "storage 0 of two kinds",
    ),
    "storage_of_no_kind": (pickled(storage(4, IDENTITY)), "storage of kind nn.modules.linear.Identity"),
    "huge_tensor": (pickled(buffer(tensor(10**12))), "a tensor of 1000000000000 values over a storage of 4"),
    "spread_tensor": (pickled(buffer(tensor(2, stride=10**12))), "a tensor of 2 values over a storage of 4"),
    "far_tensor": (pickled(buffer(tensor(1, offset=number(10**12)))), "a tensor of 1 values over a storage of 4"),
    "expanded_tensor": (
        pickled(buffer(tensor(10**12, stride=0))),
        "a tensor of 1000000000000 values over a storage of 4",
    ),
    "negative_tensor": (pickled(buffer(tensor(-1))), "a tensor without a storage, sizes and strides"),
    "huge_lstm": (
        pickled(module("torch.nn.modules.rnn.LSTM", num_layers=number(10**9), bidirectional=b"\x89", bias=b"\x88",
                       proj_size=b"K\0", _all_weights=listed(listed(b"K\0")))),
        "LSTM without names of its weights",
    ),
    "laughs": (pickled(module(env=env_spec(settings=dictionary({"x": laughs(30)})))), "more than 200000 values"),
    "shared_modules": (
        pickled(module(_modules=dictionary({"a": module() + b"q\1", "b": b"h\1"}))),
        "a module in two places",
    ),
    "module_in_itself": (
        pickled(ref(IDENTITY) + b")\x81q\1" + dictionary({"_parameters": b"}", "_buffers": b"}", "_modules":
                dictionary({"self": b"h\1"})}) + b"b"),
        "a module in two places, or inside itself",
    ),
    "deep_modules": (pickled(chain(3000)), "RecursionError"),
    "many_modules": (
        pickled(listed(*[ref(IDENTITY) + b"q\0"], *[b"h\0)\x81"] * 20_000)),
        "more than 10000 modules and tensors",
    ),
    "many_objects": (pickled(module() + (ref(IDENTITY) + b")\x81") * 15_000), "more than 10000 modules and tensors"),
    "many_dictionaries": (pickled(b"}" * 500_000), "more than one object"),
    "many_ordered_dictionaries": (
        pickled(ref("collections.OrderedDict") + b"q\0" + b"h\0)R" * 200_000), "more than one object"
    ),
    "many_marks": (pickled(b"(" * 300_000), "more than one object"),
    "deep_tuple": (pickled(module(x=b")" + b"\x85" * 300_000)), "more than 200000 values"),
    "long_text": (pickled(b"X\xff\xff\xff\xff"), "is no agent file, or damaged"),
    "long_text_8": (pickled(b"\x8d" + b"\xff" * 7 + b"\x3f"), "is no agent file, or damaged"),
    "long_bytes_8": (pickled(b"\x8e" + b"\xff" * 7 + b"\x3f"), "is no agent file, or damaged"),
    "long_bytearray_8": (pickled(b"\x96" + b"\xff" * 7 + b"\x3f"), "is no agent file, or damaged"),
    "long_number": (pickled(b"\x8b\xff\xff\xff\x7f"), "is no agent file, or damaged"),
    "long_frame": (pickled(b"\x95" + b"\xff" * 7 + b"\x3f"), "instruction FRAME"),
    "huge_pickle": (pickled(b"N" * (2 << 20)), "a pickle of 2097155 bytes"),
    "zip_bomb": (archive(bytes(20 << 20), method=zipfile.ZIP_DEFLATED), "compressed or encrypted zip entry"),
    "zip_bomb_in_storage": (
        archive(b"\x80\x02" + module() + b".", {"data/1": bytes(20 << 20)}, zipfile.ZIP_BZIP2),
        "compressed or encrypted zip entry",
    ),
    "zip_lzma": (patched(BARE, 10, zipfile.ZIP_LZMA), "compressed or encrypted zip entry 'agent/data.pkl'"),
    "zip_huge_entry": (
        patched(patched(BARE, 24, 2**32 - 2, "<I"), 20, 2**32 - 2, "<I"),
        "zip entries larger than the file",
    ),
    "zip_many_entries": (archive(b"\x80\x02" + module() + b".", MANY), "a list of zip entries of"),
    # Zips that two readers take for two different things, and archives inside.
    "zip_encrypted": (patched(BARE, 8, 1), "compressed or encrypted zip entry"),
    "zip_two_pickles": (
        archive(b"\x80\x02" + module() + b".", {"../agent/data.pkl": b""}),
        "zip entry 'agent/../agent/data.pkl'",
    ),
    "zip_other_case": (archive(b"\x80\x02" + module() + b".", {"DATA.PKL": TOUCH}), "zip entry 'agent/DATA.PKL'"),
    "zip_same_name": (
        archive(b"\x80\x02" + module() + b".", {"data.pkX": TOUCH}).replace(b"data.pkX", b"data.pkl"),
        "a second zip entry data.pkl",
    ),
    "zip_nested": (archive(b"\x80\x02" + module() + b".", {"inner.zip": SOUND}), "zip entry 'agent/inner.zip'"),
    "zip_of_zip": (archive(SOUND), "is no agent file, or damaged"),
    "zip_after_script": (b"#!/bin/sh\ntouch canary\n" + BARE, "does not begin and end"),
    "zip_after_header": (b"PK\3\4" + bytes(60) + BARE, "something before it"),
    "zip_with_comment": (BARE[:-2] + b"\4\0boom", "does not begin and end"),
    "zip_and_more": (BARE + b"rubbish", "does not begin and end"),
    "torchscript": (
        archive(b"\x80\x02}.", {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"x"}),
        "zip entry 'agent/constants.pkl'",
    ),
    "byteorder": (archive(b"\x80\x02" + module() + b".", {"byteorder": b"sideways"}), "Unknown endianness"),
    # Not an agent, or not whole.
    "state_dict": (saved({"weight": torch.zeros(2)}), "a value of type dict where an agent"),
    "lone_tensor": (pickled(tensor()), "a tensor where an agent"),
    "lone_env": (pickled(env_spec()), "an object of EnvSpec where an agent"),
    "empty_module": (pickled(ref(IDENTITY) + b")\x81"), "Identity without attributes"),
    "odd_module": (pickled(new(IDENTITY, b"}")), "Identity with _parameters that are something else"),
    "text_as_submodule": (pickled(module(_modules=dictionary({"a": text("b")}))), "_modules that are something else"),
    "state_of_slots": (
        pickled(ref(IDENTITY) + b")\x81" + tup(b"}", b"}") + b"b"),
        "attributes of Identity that are not",
    ),
    "state_of_dict": (pickled(b"}}b"), "attributes given to a value of type dict"),
    "state_twice": (pickled(module() + b"}b"), "attributes given to an object of Identity"),
    "set_of_lists": (pickled(module(a=call("__builtin__.set", listed(b"]")))), "a set of anything but names"),
    "dict_with_arguments": (
        pickled(module(a=call("collections.OrderedDict", b"]"))),
        "arguments to collections.OrderedDict",
    ),
    "item_in_module": (pickled(module() + text("a") + b"Ns"), "an item set in an object of Identity"),
    "append_to_module": (pickled(module() + b"Na"), "an item appended to an object of Identity"),
    "after_the_end": (archive(b"\x80\x02" + module() + b"." + b"\x80\x02N."), "bytes after the end of the pickle"),
    "no_end": (archive(b"\x80\x02" + module()), "is no agent file, or damaged"),
    "empty_stack": (pickled(b"0" * 9), "instruction POP"),
    "absent_memo": (pickled(b"h\x09"), "is no agent file, or damaged (KeyError: 9)"),
    "no_pickle": (archive(b""), "is no agent file, or damaged"),
    "flipped_pickle": (flipped(BARE, b"training"), "agent/data.pkl does not match its CRC"),
    "flipped_weight": (flipped(pickled(buffer(tensor())), struct.pack("<f", 3)), "agent/data/0 does not match its CRC"),
    "torn": (SOUND[:-1000], "does not begin and end"),
    "empty": (b"", "does not begin and end"),
    "text": (b"epoch,score\n" * 100, "does not begin and end"),
    "zeros": (bytes(5000), "does not begin and end"),
    "tar": (tarred(b"\x80\x02" + TOUCH + b"."), "does not begin and end"),
    "gzip": (gzip.compress(SOUND), "does not begin and end"),
    "program": (b"\x7fELF" + bytes(500), "does not begin and end"),
}  # fmt: skip
