"""Code of the user's own, named on the command line."""

import sys
from pathlib import Path

import pytest

from metta.code_files import code_of
from metta.errors import UserError
from metta.user_code import check_place, load_place, resolved_place


@pytest.mark.parametrize("name", ["Mine", ":Mine", "mine.py:", "mine.py:not a name", "mine.py:3", "mine.py:A..B"])
def test_what_names_no_class_is_refused(name: str) -> None:
    """Prevents a mistyped agent= from being found out seconds later, when torch is there."""
    with pytest.raises(UserError, match="expected path/to/file.py:MyAgent or package.module:MyAgent$"):
        check_place("agent", name, "MyAgent")


def test_file_or_module_must_be_there(tmp_path: Path) -> None:
    """Prevents a traceback for a file that is elsewhere, and for a module named __main__."""
    (tmp_path / "mine.py").touch()
    check_place("agent", f"{tmp_path}/mine.py:Mine")
    check_place("agent", "metta.agent.policy_agent:PolicyAgent")
    moved = "; where it has moved, give agent=new/place/other.py:Mine"
    with pytest.raises(UserError, match=f"no file {tmp_path}/other.py{moved}$"):
        check_place("agent", f"{tmp_path}/other.py:Mine")
    with pytest.raises(UserError, match="no module no_such$"):
        check_place("agent", "no_such:Mine")


def test_a_file_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents ./mine.py:Mine from being refused as another agent than mine.py:Mine when a run is resumed."""
    monkeypatch.chdir(tmp_path)
    names = ["mine.py:Mine", "./mine.py:Mine", f"{tmp_path}/mine.py:Mine"]
    assert {resolved_place(name) for name in names} == {f"{tmp_path}/mine.py:Mine"}
    assert resolved_place("package.module:Mine") == "package.module:Mine"


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents `No module named 'mine'` from the installed command, which does not search where it is started."""
    (tmp_path / "beside_the_user.py").write_text("class Mine: pass\n")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    check_place("agent", "beside_the_user:Mine")
    assert load_place("agent", "beside_the_user:Mine").__module__ == "beside_the_user"


def test_what_one_file_names_is_one_module(tmp_path: Path) -> None:
    """Prevents two copies of a class where two keys name the same file, and an edited file from not being read."""
    file = tmp_path / "mine.py"
    file.write_text("class Mine: pass\nclass Other(Mine): pass\n")
    mine, other = (load_place("agent", f"{file}:{name}") for name in ("Mine", "Other"))
    assert issubclass(other, mine)
    file.write_text("class Mine: edited = True\n")
    assert load_place("agent", f"{file}:Mine").edited


def test_a_name_inside_a_class(tmp_path: Path) -> None:
    """Prevents a nested class from being refused as no name at all."""
    file = tmp_path / "mine.py"
    file.write_text("class Outer:\n    class Mine: pass\n")
    assert load_place("agent", f"{file}:Outer.Mine").__qualname__ == "Outer.Mine"
    with pytest.raises(UserError, match="no Outer.Other in .*mine.py; it has Outer$"):
        load_place("agent", f"{file}:Outer.Other")


def test_files_of_two_folders_import_each_what_lies_beside_it(tmp_path: Path) -> None:
    """Prevents an environment that plays by the rules of another, whose folder has a module of the same name."""
    found: list[str] = []
    for folder in ("a", "b", "a"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "rules_beside.py").write_text(f"RULES = {folder!r}\n")
        mine = tmp_path / folder / f"mine_{len(found)}.py"
        mine.write_text("import rules_beside\nclass Mine:\n    rules = rules_beside.RULES\n")
        found.append(load_place("env", f"{mine}:Mine").rules)
    assert found == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(): pass\nlimit = 3\n", "no Mine in {file}; it has f"),
        ("limit = 3\n", "no Mine in {file}; it has no function"),
        ("x = 1\ny = x / 0\n", "cannot import {file}: ZeroDivisionError: division by zero (mine.py:2)"),
        ("x = (\n", "cannot import {file}: SyntaxError: '(' was never closed (mine.py:1)"),
        ("raise SystemExit(0)\n", "cannot import {file}: SystemExit: 0 (mine.py:1)"),
        ("import no_such\n", "cannot import {file}: ModuleNotFoundError: No module named 'no_such' (mine.py:1)"),
    ],
)
def test_a_file_without_the_name_or_that_fails(code: str, said: str, tmp_path: Path) -> None:
    """Prevents a traceback through the loader for a misspelt name, and a name that is missing without those there."""
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(UserError) as error:
        load_place("loss", f"{file}:Mine")
    assert str(error.value) == f"loss={file}:Mine: {said.format(file=file)}"


def test_a_class_that_travelled_by_value_is_the_same_version() -> None:
    """Prevents a script's run, gone on with elsewhere, from being told that its code has changed."""

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    made, brought, other = (
        type("Mine", (), dict(members))
        for members in ([("b", one), ("a", two)], [("a", two), ("b", one)], [("a", one), ("b", two)])
    )
    assert code_of(made) == code_of(brought) != code_of(other)
