"""The user's own code: what belongs to a file of it, and what tells versions of a file or a function apart."""

import ast
import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any


def root_of(path: Path) -> Path:
    """The folder that must be searched for what the file imports: its own, or the one that its package lies in."""
    return next(folder for folder in path.parents if not (folder / "__init__.py").is_file())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def joint_digest(file: Path) -> str:
    """Of a file with what it imports from beside it."""
    return hashlib.sha256(" ".join(map(digest, code_files(file))).encode()).hexdigest()


def code_files(file: Path) -> list[Path]:
    """The file, and what it imports from its own folder or package, and what that imports; sorted.

    By their texts, so that it is the same in every process, whatever has been imported there.
    """
    file = file.resolve()
    root, found, waiting = root_of(file), {file}, [file]
    while waiting:
        new = set(_imports(waiting.pop(), root)) - found
        found |= new
        waiting += new
    return sorted(found)


def _imports(file: Path, root: Path) -> Iterator[Path]:
    try:
        nodes = ast.walk(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):  # of one that is imported only where something else is missing
        return
    names: list[tuple[Path, str]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(root, name.name) for name in node.names if name.name.partition(".")[0] != "metta"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] != "metta":
            folder = file.parents[node.level - 1] if node.level else root
            names += [(folder, f"{node.module or ''}.{name.name}".strip(".")) for name in node.names]
    for folder, dotted in names:
        for part in dotted.split("."):
            folder /= part
            yield from filter(Path.is_file, (folder.with_name(f"{part}.py"), folder / "__init__.py"))


def code_of(thing: Any) -> str:
    """Return a digest of the code of a function, or of a class's methods; the same in every process."""

    def parts(code: CodeType) -> str:
        inner = [parts(one) if isinstance(one, CodeType) else sorted_text(one) for one in code.co_consts]
        return repr((code.co_code, code.co_names, inner))

    def sorted_text(value: Any) -> str:  # a set of texts has another order in each process
        return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

    # Sorted: the members of a class that travelled by value are in another order.
    return _digest_of(sorted(f"{name} {parts(function.__code__)}" for name, function in _functions(thing)))


def captured(thing: Any) -> str:
    """Return a digest of the data in which functions or classes that one text made differ; "" where there is none."""
    found = list(_captured(thing, set()))
    return _digest_of(found) if found else ""


def _captured(thing: Any, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    for name, function in _functions(thing):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        yield from _data([(f"{name} {variable}", c.cell_contents) for variable, c in cells if c != CellType()], seen)
        yield from _data([(name, default) for default in function.__defaults__ or ()], seen)
        yield from _data((function.__kwdefaults__ or {}).items(), seen)
    if isinstance(thing, type):
        plain = (bool, int, float, str, tuple)
        yield from _data(((n, v) for n, v in vars(thing).items() if n[:2] != "__" and isinstance(v, plain)), seen)


def _data(named: Any, seen: set[int]) -> Iterator[str]:
    for name, value in named:
        if isinstance(value, FunctionType | type):
            yield from _captured(value, seen)
            continue
        try:  # a set has another order in each process
            yield f"{name}={pickle.dumps(sorted(value) if isinstance(value, set | frozenset) else value)!r}"
        except Exception:  # noqa: BLE001 (anybody's objects)
            yield f"{name}={type(value).__qualname__}"


def _functions(thing: Any) -> list[tuple[str, FunctionType]]:
    """Find the function itself, or the methods and properties of a class and of its bases in the same module."""
    members = [("", thing)]
    if isinstance(thing, type):
        members = [item for cls in thing.__mro__ if cls.__module__ == thing.__module__ for item in vars(cls).items()]
    found = []
    for name, member in members:
        for part in (member, *(getattr(member, how, None) for how in ("__func__", "fget", "fset", "__wrapped__"))):
            if isinstance(part, FunctionType):
                found.append((name, part))
    return found


def _digest_of(texts: Any) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
