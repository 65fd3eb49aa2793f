"""Files of the user's own code: what belongs to one, and what tells one version of it from another."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path


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
    found, waiting = {file}, [file]
    while waiting:
        new = set(_imports(waiting.pop(), root_of(file))) - found
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
