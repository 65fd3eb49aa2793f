"""The pieces of which hostile_corpus.py makes agent files: pickles byte by byte, zips, agents changed in Python."""

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName, EnvSpec

SPEC = EnvSpec(EnvName("BipedalWalker-v3"), 1, "vector", (24,), "float32", None, (-1.0,) * 4, (1.0,) * 4, (4,))


def saved(agent: object) -> bytes:
    output = io.BytesIO()
    torch.save(agent, output)
    return output.getvalue()


SOUND = saved(PolicyAgent(SPEC, hidden_size=4))
with zipfile.ZipFile(io.BytesIO(SOUND)) as _zip:
    SOUND_ENTRIES = {name.partition("/")[2]: _zip.read(name) for name in _zip.namelist()}


# A pickle, piece by piece: each function gives the instructions that push one object.


def ref(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return (
        b"J" + struct.pack("<i", value)
        if abs(value) < 1 << 31
        else b"\x8a\x10" + value.to_bytes(16, "little", signed=True)
    )


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


def agent(**attributes: bytes) -> bytes:
    """The sound agent with attributes added or replaced: the last thing done to it, and all that is wrong."""
    items = b"".join(text(key) + value for key, value in attributes.items())
    return SOUND_ENTRIES["data.pkl"][2:-2] + b"(" + items + b"ub"


def storage(count: int = 4, kind: str = "torch.FloatStorage", key: str = "x") -> bytes:
    return tup(text("storage"), ref(kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    size: int = 4, stride: int = 1, offset: bytes = b"K\0", hooks: bytes = b"}", of: bytes | None = None
) -> bytes:
    """A one-dimensional tensor over storage x, which has 4 floats in every file made here."""
    shape = tup(number(size)), tup(number(stride))
    return call("torch._utils._rebuild_tensor_v2", of or storage(), offset, *shape, b"\x89", hooks)


def parameter(of: bytes, hooks: bytes = b"}") -> bytes:
    return call("torch._utils._rebuild_parameter", of, b"\x88", hooks)


def log_std(content: bytes) -> bytes:
    """The sound agent with this in place of its one parameter that is in no module, of 4 numbers."""
    return agent(_parameters=dictionary({"log_std": content}))


def archive(
    content: bytes,
    extra: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    numbers: bool = True,
) -> bytes:
    """A file as torch.save writes it, with this as its pickle. `extra` adds or replaces entries."""
    entries = SOUND_ENTRIES | {"data.pkl": content, "data/x": struct.pack("<4f", 1, 2, 3, 4)}
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as file:
        for name, value in (entries | (extra or {})).items():
            if numbers or not name.startswith("data/"):
                file.writestr(f"agent/{name}", value)
        for entry in file.infolist():
            entry.external_attr = 0
    return output.getvalue()


def pickled(body: bytes) -> bytes:
    return archive(b"\x80\x02" + body + b".")


def legacy(body: bytes) -> bytes:
    """torch's format before zip: magic number, protocol, system information, the object, storage keys."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + b"\x80\x02" + body + b"." + pickle.dumps([], 2)


def as_bytes(content: bytes) -> bytes:
    """A bytes object, as protocol 2 has it."""
    return call("_codecs.encode", text(content.decode("latin1")), text("latin1"))


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
    """The sound agent's, with some fields replaced, or of its name."""
    name = {"name": text(SPEC.env.name), "settings": b"}"}
    name |= {key: fields.pop(key) for key in name if key in fields}
    numbers = {key: tup(*[b"G" + struct.pack(">d", value)] * 4) for key, value in (("low", -1), ("high", 1))}
    own = {
        "env": new("metta.envs.env_spec.EnvName", dictionary(name)), "num_agents": b"K\1",
        "observation_kind": text("vector"), "observation_shape": tup(number(24)),
        "observation_dtype": text("float32"), "num_actions": b"N", "action_low": numbers["low"],
        "action_high": numbers["high"], "action_shape": tup(number(4)), "tokens": b"N",
        "action_sizes": b")", "leaves": b")", "masked": b"\x89", "agents_vary": b"\x89",
    }  # fmt: skip
    return new("metta.envs.env_spec.EnvSpec", dictionary(own | fields))


def leaf(kind: str, *shape: int) -> bytes:
    """A part of a nested observation."""
    fields = {"path": b")", "kind": text(kind), "shape": tup(*map(number, shape)), "dtype": text("uint8")}
    return new("metta.envs.env_spec.Leaf", dictionary(fields))


def parts(encoder: bytes, heads: bytes) -> bytes:
    """An agent's modules."""
    return dictionary({"encoder": encoder, "policy": heads, "value": heads})


def altered(change: Callable[[Any], Any]) -> bytes:
    """The sound agent, changed as anybody could, and saved by torch."""
    agent = PolicyAgent(SPEC, hidden_size=4)
    change(agent)
    return saved(agent)


def weight_norm(agent: Any) -> None:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        nn.utils.weight_norm(agent.policy)


def clip_less(agent: Any) -> None:
    agent.encoder.normalizer.clip = 5.0


def upsample(agent: Any) -> None:
    """A few kilobytes that take 9 GB and a minute to act."""
    parts = nn.Unflatten(1, (1, 24)), nn.Upsample(size=600_000_000), nn.AdaptiveAvgPool1d(8), nn.Flatten()
    agent.encoder = nn.Sequential(*parts)


def shared_storage() -> bytes:
    """An agent of which each number is the same one: its tensors repeat it, and any copy of them fills the memory."""
    agent = PolicyAgent(SPEC, hidden_size=1000)
    for tensor in (*agent.parameters(), *agent.buffers()):
        tensor.data = torch.ones((), dtype=tensor.dtype).expand(tensor.shape)
    return saved(agent)
