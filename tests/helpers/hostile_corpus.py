"""Hostile agent files, made byte by byte: used by tests/promises/test_hostile.py.

CODE are those that run code when loaded with trust: they make a file `canary` in the working folder, with the shell or
with `hostile_module.touch`. OTHER are the rest. Each name leads to (content, what the refusal must name).
"""

import gzip
import math
import struct
import zipfile

import torch
from torch import nn

from tests.helpers.hostile_pieces import (
    SOUND,
    agent,
    altered,
    archive,
    as_bytes,
    call,
    chain,
    clip_less,
    dictionary,
    env_spec,
    flipped,
    laughs,
    leaf,
    legacy,
    listed,
    log_std,
    module,
    new,
    number,
    parameter,
    parts,
    patched,
    pickled,
    ref,
    saved,
    shared_storage,
    storage,
    tarred,
    tensor,
    text,
    tup,
    upsample,
    weight_norm,
)

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
    "obj_in_agent": (pickled(agent(a=b"(" + ref("torch.nn.modules.linear.Identity") + b"o", b=TOUCH)), "OBJ"),
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
    "in_attribute": (pickled(agent(weight=TOUCH)), TOUCHED),
    "in_key": (pickled(agent(table=b"}" + TOUCH + b"Ns")), TOUCHED),
    "in_submodule": (pickled(agent(_modules=dictionary({"layer": TOUCH}))), TOUCHED),
    "in_offset": (pickled(log_std(tensor(offset=TOUCH))), TOUCHED),
    "in_hooks": (pickled(log_std(tensor(hooks=TOUCH))), TOUCHED),
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
    "raw_pickle": (b"\x80\x02" + TOUCH + b".", "does not end as torch.save's"),
    "legacy": (legacy(TOUCH), "does not end as torch.save's"),
    "legacy_before_zip": (legacy(TOUCH) + SOUND, "bytes before the first zip entry"),
    "second_pickle_hidden": (archive(b"\x80\x02" + TOUCH + b"." + b"\x80\x02" + module() + b"."), TOUCHED),
}  # fmt: skip

AGENT = "metta.agent.policy_agent.PolicyAgent"
MORE, UNLIKE = "which metta's own has not", "that is not as metta makes it"
IDENTITY, LINEAR = "torch.nn.modules.linear.Identity", "torch.nn.modules.linear.Linear"
HOOK = b"}K\0" + module() + b"s"  # a dictionary with one hook, a module: modules can be called
BARE = pickled(agent())
MANY = {f"data/{i}": b"" for i in range(1, 20_000)}

OTHER: dict[str, tuple[bytes, str]] = {
    # Code that would run later, when the agent is called, copied or saved.
    "forward_hook": (pickled(agent(_forward_hooks=HOOK)), "agent._forward_hooks.0, " + MORE),
    "forward_pre_hook": (pickled(agent(_forward_pre_hooks=HOOK)), "agent._forward_pre_hooks.0, " + MORE),
    "state_dict_hook": (pickled(agent(_state_dict_hooks=HOOK)), "agent._state_dict_hooks.0, " + MORE),
    "load_hook": (
        pickled(agent(_load_state_dict_post_hooks=HOOK)), "agent._load_state_dict_post_hooks.0, " + MORE
    ),
    "hook_put_in_late": (
        pickled(agent(_forward_hooks=b"}q\1", note=b"h\1K\0" + module() + b"s")),
        "agent._forward_hooks.0, " + MORE,
    ),
    "hook_taken_out_late": (
        pickled(agent(_forward_hooks=b"}q\1K\0" + module() + b"s", note=b"h\1K\0Ns")),
        "agent._forward_hooks.0, " + MORE,
    ),
    "partial_as_hook": (
        pickled(agent(_forward_hooks=b"}K\0" + call("functools.partial", OS) + b"s")),
        "functools.partial",
    ),
    "tensor_hook": (pickled(log_std(tensor(hooks=HOOK))), f"agent._parameters.log_std {UNLIKE} (a tensor)"),
    "parameter_hook": (
        pickled(log_std(parameter(tensor(), HOOK))), f"agent._parameters.log_std {UNLIKE} (a tensor)"
    ),
    "tensor_hook_put_in_late": (
        pickled(agent(_parameters=dictionary({"log_std": tensor(hooks=b"}q\1")}), _forward_hooks=b"h\1" + HOOK[1:])),
        f"agent._parameters.log_std {UNLIKE} (a tensor)",
    ),
    "hook_of_module": (
        altered(lambda agent: agent.policy.register_forward_hook(nn.Identity())), "agent.policy._forward_hooks.",
    ),
    "weight_norm": (altered(weight_norm), "agent.policy._parameters.weight, which metta's own has and it has not"),
    "compiled_call": (pickled(agent(_compiled_call_impl=module())), "agent._compiled_call_impl, " + MORE),
    "forward_replaced": (pickled(agent(forward=module())), "agent.forward, " + MORE),
    "class_replaced": (pickled(agent(__class__=text("x"))), "agent.__class__, " + MORE),
    "class_kept": (pickled(agent(activation=ref(LINEAR))), "agent.activation, " + MORE),
    "function_kept": (
        pickled(agent(f=listed(ref("collections.OrderedDict")))),
        "agent.f, " + MORE,
    ),
    "storage_class_kept": (
        pickled(agent(f=tup(text("storage"), ref("torch.FloatStorage"), text("x"), text("cpu"), b"K\4"))),
        "agent.f, " + MORE,
    ),
    "env_imports_module": (
        pickled(agent(env=env_spec(name=text("hostile_module:x")))),
        "an environment called hostile_module:x, which would import a module",
    ),
    "env_imports_file": (
        pickled(agent(env=env_spec(name=text("./hostile_module.py")))),
        "an environment called ./hostile_module.py, which would import a module",
    ),
    "env_of_another_class": (pickled(agent(env=module())), "an object of torch.nn.modules.linear.Identity in"),
    "env_called_a_number": (pickled(agent(env=env_spec(name=number(3)))), "an environment called 3"),
    "env_called_by_a_module": (pickled(agent(env=env_spec(env=module()))), "an object of torch.nn.modules.linear.Id"),
    "env_without_a_name": (pickled(agent(env=env_spec(env=text("arena")))), "an environment called None"),
    "env_of_one_setting": (pickled(agent(env=env_spec(settings=text("x")))), "an environment whose settings are none"),
    "env_of_numbered_settings": (
        pickled(agent(env=env_spec(settings=b"}K\1K\1s"))),
        "an environment whose settings are none",
    ),
    # Classes of one's own: harmless or not, they are code that came with the file or lies around here.
    "custom_class": (
        archive(b"\x80\x02" + module("hostile_module.CustomAgent") + b".", numbers=False),
        "global hostile_module.CustomAgent",
    ),
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
    "name_for_terminal": (pickled(ref("os.\x1b[2Jsystem")), "global os.\\x1b[2Jsystem"),
    "name_of_lines": (pickled(storage(key="1\n\n1")), "a value of type Storage where an agent"),
    "name_without_end": (pickled(ref("os." + "x" * 200_000)), "global os.xxxxxxxxxx"),
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
        pickled(log_std(tensor(of=storage(10**12)))),
        "a storage of 1000000000000 numbers, where the file has 16 bytes",
    ),
    "absent_storage": (pickled(log_std(tensor(of=storage(4, key="99")))), "damaged (KeyError: 'data/99')"),
    "storage_of_two_kinds": (
        pickled(tup(tensor(2, of=storage(2, "torch.DoubleStorage")), tensor(16, of=storage(16, "torch.ByteStorage")))),
        "global torch.ByteStorage",
    ),
    "storage_of_no_kind": (pickled(storage(4, IDENTITY)), "a storage of a kind that no agent has"),
    "huge_tensor": (pickled(log_std(tensor(10**12))), f"agent._parameters.log_std {UNLIKE} (a tensor)"),
    "spread_tensor": (pickled(log_std(tensor(4, stride=10**12))), "damaged (RuntimeError: setStorage"),
    "far_tensor": (pickled(log_std(tensor(4, offset=number(10**12)))), "damaged (RuntimeError: setStorage"),
    "before_tensor": (pickled(log_std(tensor(4, offset=number(-1)))), "damaged (RuntimeError: "),
    "backward_tensor": (pickled(log_std(tensor(4, stride=-1))), "damaged (RuntimeError: as_strided: Negative strides"),
    "expanded_tensor": (
        pickled(log_std(tensor(10**12, stride=0))),
        f"agent._parameters.log_std {UNLIKE} (a tensor)",
    ),
    "negative_tensor": (pickled(log_std(tensor(-1))), f"agent._parameters.log_std {UNLIKE} (a tensor)"),
    "tensor_of_two_sizes": (
        pickled(log_std(tensor(4, of=storage(2, "torch.DoubleStorage")))),
        f"agent._parameters.log_std {UNLIKE} (a tensor)",
    ),
    "half_precision": (altered(nn.Module.half), "global torch.HalfStorage"),
    "double_precision": (altered(nn.Module.double), f"agent._parameters.log_std {UNLIKE} (a tensor)"),
    "weight_nan": (altered(lambda agent: agent.policy.weight.data.fill_(math.nan)), "not finite in policy.weight"),
    "weight_inf": (altered(lambda agent: agent.encoder.normalizer.var.fill_(math.inf)), "not finite in encoder."),
    "huge_lstm": (
        pickled(agent(lstm=module("torch.nn.modules.rnn.LSTM", num_layers=number(10**9)))),
        f"agent.lstm {UNLIKE} (an object of torch.nn.modules.rnn.LSTM)",
    ),
    "huge_hidden_size": (
        pickled(agent(options=dictionary({"hidden_size": number(10**6), "lstm": b"\x89"}))),
        f"agent.encoder._parameters.weight1 {UNLIKE} (a tensor)",
    ),
    "option_of_no_agent": (pickled(agent(options=dictionary({"device": text("cuda")}))), "damaged (TypeError: "),
    "huge_upsampling": (altered(upsample), f"agent.encoder {UNLIKE} (an object of torch.nn.modules.container.Seq"),
    "huge_observation": (
        pickled(agent(env=env_spec(observation_shape=tup(number(10**6), number(10**6))))),
        "observations of shape (1000000, 1000000)",
    ),
    "huge_observation_dtype": (
        pickled(agent(env=env_spec(observation_dtype=text("U1000000000")))),
        "an environment unlike any",
    ),
    "huge_actions": (
        pickled(agent(env=env_spec(num_actions=number(10**12), action_shape=b")"))),
        "agent._parameters.log_std, " + MORE,
    ),
    "huge_choices": (
        pickled(agent(env=env_spec(action_sizes=tup(number(10**12), number(2)), action_shape=tup(number(2))))),
        "agent._parameters.log_std, " + MORE,
    ),
    "choices_of_nothing": (
        pickled(agent(env=env_spec(action_sizes=tup(number(0)), action_shape=tup(number(1))))),
        "actions of sizes (0,)",
    ),
    "huge_leaf": (
        pickled(agent(env=env_spec(leaves=tup(leaf("image", 10**5, 10**5, 3))))),
        "observations in parts unlike any",
    ),
    "leaf_of_no_kind": (
        pickled(agent(env=env_spec(leaves=tup(leaf("sound", 24))))),
        "observations in parts unlike any",
    ),
    "thousand_images": (
        pickled(agent(env=env_spec(leaves=tup(*[leaf("image", 3, 3, 1)] * 1000)))),
        "observations in parts unlike any",
    ),
    "leaves_that_are_not_the_row": (
        pickled(agent(env=env_spec(leaves=tup(leaf("flags", 23))))),
        "observations of shape (24,), which is not that of their parts,",
    ),
    "mask_without_room": (pickled(agent(env=env_spec(masked=b"\x88"))), "an action mask that is none"),
    "huge_env": (
        pickled(agent(env=env_spec(settings=listed(b"K\1" * 20_000)))),
        "more than 10000 values",
    ),
    "long_name_in_env": (
        pickled(agent(env=env_spec(settings=dictionary({"x": text("y" * 2_000)})))),
        "a value of type str in an environment",
    ),
    "shared_storage": (shared_storage(), "tensors larger than the file"),
    "laughs": (pickled(agent(env=env_spec(settings=dictionary({"x": laughs(30)})))), "more than 10000 values"),
    "shared_modules": (
        pickled(agent(_modules=parts(module() + b"q\1", b"h\1"))),
        f"agent.encoder {UNLIKE}",
    ),
    "module_in_itself": (
        pickled(agent(_modules=parts(b"h\1", b"h\1"))),
        f"agent.encoder {UNLIKE} (an object of metta.agent.policy_agent.PolicyAgent)",
    ),
    "deep_modules": (
        pickled(agent(_modules=parts(chain(2000), module()))),
        f"agent.encoder {UNLIKE} (an object of torch.nn.modules.linear.Identity)",
    ),
    "many_modules": (
        pickled(agent(note=listed(ref(IDENTITY) + b"q\0", b"h\0)\x81" * 50_000))),
        "agent.note, " + MORE,
    ),
    "many_objects": (pickled((ref(IDENTITY) + b")\x81") * 6_000 + agent()), "more than one object"),
    "many_dictionaries": (pickled(b"}" * 200_000 + agent()), "more than one object"),
    "many_ordered_dictionaries": (
        pickled(ref("collections.OrderedDict") + b"q\0" + b"h\0)R" * 60_000 + agent()), "more than one object"
    ),
    "many_marks": (pickled(b"(" * 200_000 + agent()), "more than one object"),
    "deep_tuple": (pickled(agent(x=b")" + b"\x85" * 200_000)), "agent.x, " + MORE),
    "long_text": (pickled(b"X\xff\xff\xff\xff"), "is no agent file, or damaged"),
    "long_text_8": (pickled(b"\x8d" + b"\xff" * 7 + b"\x3f"), "instruction BINUNICODE8"),
    "long_bytes_8": (pickled(b"\x8e" + b"\xff" * 7 + b"\x3f"), "instruction BINBYTES8"),
    "long_bytearray_8": (pickled(b"\x96" + b"\xff" * 7 + b"\x3f"), "instruction BYTEARRAY8"),
    "long_number": (pickled(b"\x8b\xff\xff\xff\x7f"), "instruction LONG4"),
    "long_frame": (pickled(b"\x95" + b"\xff" * 7 + b"\x3f"), "instruction FRAME"),
    "huge_pickle": (pickled(b"N" * (2 << 20)), "a pickle of 2097155 bytes"),
    "zip_bomb": (archive(bytes(20 << 20), method=zipfile.ZIP_DEFLATED), "zip entry 'agent/data.pkl', packed"),
    "zip_bomb_in_storage": (
        archive(b"\x80\x02" + agent() + b".", {"data/1": bytes(20 << 20)}, zipfile.ZIP_BZIP2),
        "zip entry 'agent/data.pkl', packed",
    ),
    "zip_lzma": (patched(BARE, 10, zipfile.ZIP_LZMA), "zip entry 'agent/data.pkl'"),
    "zip_huge_entry": (
        patched(patched(BARE, 24, 2**32 - 2, "<I"), 20, 2**32 - 2, "<I"),
        "zip entries larger than the file",
    ),
    "zip_many_entries": (archive(b"\x80\x02" + agent() + b".", MANY), "a list of zip entries of"),
    # Zips that two readers take for two different things, and archives inside.
    "zip_encrypted": (patched(BARE, 8, 1), "zip entry 'agent/data.pkl', packed"),
    "zip_two_pickles": (
        archive(b"\x80\x02" + agent() + b".", {"../agent/data.pkl": b""}),
        "zip entry 'agent/../agent/data.pkl'",
    ),
    "zip_other_case": (archive(b"\x80\x02" + agent() + b".", {"DATA.PKL": TOUCH}), "zip entry 'agent/DATA.PKL'"),
    "zip_same_name": (
        archive(b"\x80\x02" + agent() + b".", {"data.pkX": TOUCH}).replace(b"data.pkX", b"data.pkl"),
        "zip entry 'agent/data.pkl', packed, doubled or unlike",
    ),
    "zip_nested": (archive(b"\x80\x02" + agent() + b".", {"inner.zip": SOUND}), "zip entry 'agent/inner.zip'"),
    "zip_of_zip": (archive(SOUND), "instruction PERSID"),
    "zip_after_script": (b"#!/bin/sh\ntouch canary\n" + BARE, "bytes before the first zip entry"),
    "zip_after_header": (b"PK\3\4" + bytes(60) + BARE, "bytes before the first zip entry"),
    "zip_with_comment": (BARE[:-2] + b"\4\0boom", "does not end as torch.save's"),
    "zip_and_more": (BARE + b"rubbish", "does not end as torch.save's"),
    "torchscript": (
        archive(b"\x80\x02}.", {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"x"}),
        "zip entry 'agent/constants.pkl'",
    ),
    "byteorder": (archive(b"\x80\x02" + agent() + b".", {"byteorder": b"sideways"}), "numbers in another byte order"),
    # Not an agent, or not whole.
    "state_dict": (saved({"weight": torch.zeros(2)}), "a value of type dict where an agent"),
    "lone_tensor": (pickled(tensor()), "a tensor where an agent"),
    "lone_env": (pickled(env_spec()), "an agent of class metta.envs.env_spec.EnvSpec, which is not metta's own"),
    "lone_module": (pickled(module()), "an agent of class torch.nn.modules.linear.Identity, which is not metta's own"),
    "lone_class": (pickled(ref(AGENT)), "metta.agent.policy_agent.PolicyAgent where an agent"),
    "empty_agent": (pickled(ref(AGENT) + b")\x81"), "damaged (KeyError: 'env')"),
    "agent_without_parts": (pickled(new(AGENT, b"}")), "damaged (KeyError: 'env')"),
    "text_as_submodule": (
        pickled(agent(_modules=parts(text("b"), text("b")))),
        f"agent.encoder {UNLIKE} (a value of type str)",
    ),
    "other_clip": (altered(clip_less), f"agent.encoder.normalizer.clip {UNLIKE} (a value of type float)"),
    "other_flag": (pickled(agent(training=text("yes"))), f"agent.training {UNLIKE} (a value of type str)"),
    "state_of_slots": (
        pickled(ref(IDENTITY) + b")\x81" + tup(b"}", b"}") + b"b"),
        "attributes given to an object of torch.nn.modules.linear.Identity",
    ),
    "state_of_dict": (pickled(b"}}b"), "attributes given to a value of type dict"),
    "state_twice": (pickled(agent() + b"}b"), "attributes given to an object of metta.agent.policy_agent.PolicyAgent"),
    "set_of_lists": (pickled(agent(a=call("__builtin__.set", listed(b"]")))), "a call of builtins.set"),
    "dict_with_arguments": (
        pickled(agent(a=call("collections.OrderedDict", b"]"))),
        "a call of collections.OrderedDict",
    ),
    "item_in_module": (pickled(agent() + text("a") + b"Ns"), "an item set in an object of metta.agent.policy_agent"),
    "append_to_module": (pickled(agent() + b"Na"), "'Record' object has no attribute 'append'"),
    "key_that_is_no_name": (pickled(agent(a=b"})Ns")), "an item set in a value of type dict"),
    "key_that_takes_for_ever": (pickled(agent(a=b"}" + laughs(2) + b"Ns")), "an item set in a value of type dict"),
    "keys_of_one_hash": (
        pickled(agent(a=b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(12_000)) + b"u")),
        "an item set in a value of type dict",
    ),
    "after_the_end": (archive(b"\x80\x02" + agent() + b"." + b"\x80\x02N."), "more than one object"),
    "no_end": (archive(b"\x80\x02" + agent()), "is no agent file, or damaged"),
    "empty_stack": (pickled(b"0" * 9), "instruction POP"),
    "absent_memo": (pickled(b"h\x09"), "damaged (UnpicklingError: Memo value not found at index 9)"),
    "no_pickle": (archive(b""), "is no agent file, or damaged"),
    "flipped_pickle": (flipped(BARE, b"training"), "Bad CRC-32 for file 'agent/data.pkl'"),
    "flipped_weight": (flipped(pickled(log_std(tensor())), struct.pack("<f", 3)), "Bad CRC-32 for file 'agent/data/x'"),
    "torn": (SOUND[:-1000], "does not end as torch.save's"),
    "empty": (b"", "does not end as torch.save's"),
    "text": (b"epoch,score\n" * 100, "does not end as torch.save's"),
    "zeros": (bytes(5000), "does not end as torch.save's"),
    "tar": (tarred(b"\x80\x02" + TOUCH + b"."), "does not end as torch.save's"),
    "gzip": (gzip.compress(SOUND), "does not end as torch.save's"),
    "program": (b"\x7fELF" + bytes(500), "does not end as torch.save's"),
}  # fmt: skip
