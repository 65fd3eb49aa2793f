"""Code of the user's own, named on the command line: `path/to/file.py:Name` or `package.module:Name`. Without torch.

Only what the user typed, or a run that they trust remembers, is loaded here: it runs.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from metta.code_files import captured, code_files, code_of, digest, joint_digest, root_of
from metta.errors import MettaError, UserCodeError, UserError, one_line

GIVEN: dict[str, Any] = {}  # by place: what Python handed over, or another process by value; before any file or module
ROOTS: set[Path] = set()  # the folders of the files loaded so far, or of their packages
PACKAGES = sysconfig.get_path("purelib")
FORMS = "path/to/file.py:{0} or package.module:{0}"


def split_place(key: str, text: str, example: str = "Name") -> tuple[str, str]:
    """Read `file.py:Name` or `package.module:Name`, also `Outer.Inner`. UserError where `key=text` is neither."""
    place, _, name = text.rpartition(":")
    if not (place and all(map(str.isidentifier, name.split(".")))):
        raise UserError(f"{key}={text}: expected {FORMS.format(example)}")
    return place, name


def check_place(key: str, text: str, example: str = "Name") -> None:
    """UserError unless there is such a file or module; whether the name is in it is seen when it is loaded."""
    place, name = split_place(key, text, example)
    if place.endswith(".py"):
        if not Path(place).is_file():
            moved = f"; where it has moved, give {key}=new/place/{Path(place).name}:{name}"
            raise UserError(f"{key}={text}: no file {place}{moved if Path(place).is_absolute() else ''}")
    elif not place.replace(".", "").isidentifier() or _spec(place.partition(".")[0]) is None:
        raise UserError(f"{key}={text}: no module {place}")


def resolved_place(text: str) -> str:
    """The name with a file's whole path, so that it means the same in any folder; any other text as it is."""
    place, _, name = text.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else text


def found_place(text: str) -> str:
    """The same of a module too that was found by the current folder or PYTHONPATH: its file. An installed one stays."""
    place, _, name = text.rpartition(":")
    if text in GIVEN or place.endswith(".py") or not place.replace(".", "").isidentifier():
        return resolved_place(text)
    spec = _spec(place)
    file = None if spec is None else spec.origin
    return text if file is None or not file.endswith(".py") or _installed(file) else f"{Path(file).resolve()}:{name}"


def place_of(thing: Any) -> str:
    """The place of a class or function; "__main__:Name" of one that no file or module has, which travels by value."""
    module, name = sys.modules.get(thing.__module__), thing.__qualname__
    file = getattr(module, "__file__", None) or ""
    if module is None or module.__name__ == "__main__" or getattr(module, name, None) is not thing:
        line = getattr(getattr(thing, "__code__", None), "co_firstlineno", 0)
        name = name.replace("<locals>.", "").replace("<lambda>", f"lambda_{line}").replace(".", "_")
        # What a function has made may be made again, of other data.
        data = captured(thing) if "<locals>" in thing.__qualname__ else ""
        place = f"__main__:{name}_{data}" if data else f"__main__:{name}"
    elif not file.endswith(".py") or _installed(file):
        return f"{module.__name__}:{name}"
    else:
        place = f"{Path(file).resolve()}:{name}"
    GIVEN[place] = thing
    return place


def load_place(key: str, text: str, fits: Callable[[Any], bool] = callable, kind: str = "function") -> Any:
    """Load what `key=text` names. UserError, in one line, for a file, module or name that is missing, or fails to load.

    fits, kind: which of the names in the module to list where it is not there, and what they are called. What comes
    from a file is saved by value: it loads where the file is not.
    """
    if text in GIVEN:
        return GIVEN[text]
    place, name = split_place(key, text)
    if place != "__main__":  # a script or a notebook, which nothing finds but which is there
        check_place(key, text)
    with failing(f"{key}={text}: cannot import {place}"):
        module = import_place(place)
    try:
        return attrgetter(name)(module)
    except AttributeError:
        fit = {other: value for other, value in vars(module).items() if not other.startswith("_") and fits(value)}
        have = [
            other for other, value in fit.items() if getattr(value, "__module__", place) in (place, module.__name__)
        ]
        said = f"{key}={text}: no {name} in {place}; it has {', '.join(have) or f'no {kind}'}"
        raise UserError(said) from None


def import_place(place: str) -> ModuleType:
    """Import a file or a module, which leaves the current folder as it is: other names are meant from there."""
    with chdir("."):
        if place.endswith(".py"):
            return _module_from_file(Path(place))
        search_current_folder()
        return importlib.import_module(place)


def load_function(key: str, code: str | Callable[..., Any], *arguments: str) -> Callable[..., Any]:
    """Load what `key=code` names, or take the function itself. UserError unless it takes these arguments."""
    function = load_place(key, code) if isinstance(code, str) else code
    if not callable(function):
        raise UserError(f"{key}={code}: {code_name(code)} is a {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UserError(f"{key}={code_name(code)}: an async function or a generator, which does nothing when called")
    try:
        signature = inspect.signature(function)
    except ValueError:  # one of C's
        return function
    try:
        signature.bind(*arguments)
    except TypeError:
        called = f"it is called with ({', '.join(arguments)})"
        raise UserError(f"{key}={code_name(code)}: takes {signature}, and {called}") from None
    return function


def code_name(code: str | Callable[..., Any]) -> str:
    """Name code as it was given, or as it would be."""
    return code if isinstance(code, str) else f"{code.__module__}:{getattr(code, '__qualname__', type(code).__name__)}"


@contextmanager
def remembered() -> Iterator[None]:
    """Have what Python handed over again, once a run that has another thing of the same name is done with."""
    before = dict(GIVEN)
    try:
        yield
    finally:
        GIVEN.update(before)


@contextmanager
def failing(
    what: str, *files: str, kind: type[MettaError] = UserError, tell: Callable[..., str] | None = None
) -> Iterator[None]:
    """Raise an error of this kind, "WHAT: why (where)", for what goes wrong inside with code of others.

    files: as of `said_where`, which tells why and where unless `tell` does.
    """
    try:
        yield
    except MettaError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{what}: {(tell or said_where)(error, *files)}") from error


def users_code(*places: str) -> AbstractContextManager[None]:
    """Raise a UserCodeError, in one line, for what goes wrong inside with the user's code, if there is any.

    places: what it is called in that line: `key=place`, or a name that no file is known of.
    """
    if not places:
        return nullcontext()
    return failing(f"{' '.join(places)} failed", *map(file_in, places), kind=UserCodeError)


def file_in(place: str) -> str:
    """The file that `key=path/to/file.py:Name` or `key=package.module:Name` speaks of."""
    module = place.partition("=")[2].rpartition(":")[0]
    return module if module.endswith(".py") else f"{module.rpartition('.')[2]}.py"


def said_where(error: BaseException, *files: str) -> str:
    """Format an exception of a user's code with the line of that code it came from: "ValueError: no (mine.py:12)".

    The line is the innermost in `files`; where none is there, in the file that we or a package called.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    ours = str(Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((ours, "<frozen"))]
    inside = [frame for frame in frames if Path(frame.filename).name in {Path(file).name for file in files}]
    called = [frame for frame in frames if not frame.filename.startswith(PACKAGES)]
    inside = inside or [frame for frame in called if frame.filename == called[0].filename]
    return one_line(error) + (f" ({Path(inside[-1].filename).name}:{inside[-1].lineno})" if inside else "")


def code_digest(place: str) -> str:
    """8 digits that tell one version of a function from another: of its files, or of its own code without one."""
    file = Path(found_place(place).rpartition(":")[0])
    if file.suffix == ".py" and file.is_file():
        return joint_digest(file)[:8]
    return code_of(load_place("code", place))


def module_name(path: Path) -> str:
    """Name the module of a file: one for each place and content, so that what two keys name in one file shares it.

    In a package it is a module of the package, which may import from the others (`from . import x`).
    """
    path = path.resolve()
    own = f"{path.stem}_{hashlib.sha256(f'{path} {digest(path)}'.encode()).hexdigest()[:12]}"
    return ".".join([*path.parent.relative_to(root_of(path)).parts, own])


def _installed(file: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts) or file.startswith(
        os.path.dirname(os.__file__)
    )


def _spec(module: str) -> ModuleSpec | None:
    search_current_folder()
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # of a package that is none; of __main__, where that is no module
        return None


def search_current_folder() -> None:
    """As `python -m` does, which an installed command does not."""
    if "" not in sys.path:
        _search(Path.cwd())


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


@contextmanager
def _beside(root: Path) -> Iterator[None]:
    """Let a file import what lies in its own folder where one from another folder has imported that name before."""
    names = {path.stem for path in root.iterdir()}
    alike = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    files = {name: getattr(module, "__file__", None) for name, module in alike.items()}
    elsewhere = [name for name, file in files.items() if file and root_of(Path(file)) in ROOTS - {root}]
    hidden = {name: sys.modules.pop(name) for name in elsewhere}
    ROOTS.add(root)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(root))
        sys.modules.update(hidden)


def _module_from_file(path: Path) -> ModuleType:
    import cloudpickle

    name = module_name(path)
    if name not in sys.modules:
        root = root_of(path.resolve())
        _search(root)  # as `python file.py` does
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        assert spec is not None and spec.loader is not None
        files = {str(file) for file in code_files(path)}
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            with _beside(root):
                spec.loader.exec_module(module)
                for loaded in [*sys.modules.values()]:
                    if getattr(loaded, "__file__", None) in files:
                        cloudpickle.register_pickle_by_value(loaded)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
