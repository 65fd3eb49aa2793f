"""The one line that a user gets."""

import importlib
import pkgutil

import pytest

import metta
from metta.errors import CheckpointError, MettaError, UserError, one_line
from metta.tools import main


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("two\n  lines", "two lines"),
        ("a title: \x1b]0;owned\x07", "a title: \\x1b]0;owned\\x07"),
        (CheckpointError("what\nwhere"), "what where"),
        (UserError("env=x"), "env=x"),
        (KeyError("config"), "KeyError: 'config'"),
        (ValueError("a\nb"), "ValueError: a b"),
        (MemoryError(), "MemoryError:"),
    ],
)
def test_an_error_is_one_printable_line(said: object, line: str) -> None:
    """Prevents an error that quotes a file from moving the terminal's cursor, and a KeyError from being a bare name."""
    assert one_line(said) == line


def test_all_of_metta_s_own_errors_are_one_line() -> None:
    """Prevents an exception class that `main` does not know of, which would be a traceback for a user's mistake."""
    own = set()
    for module in pkgutil.walk_packages(metta.__path__, "metta."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("metta."):
                own.add(value)
    assert len(own) >= 10
    assert {kind for kind in own if not issubclass(kind, MettaError)} == set()
    assert {kind.__name__ for kind in own if getattr(kind, "exit_status", 0) == 1} == {
        "EnvError",
        "NotUploadedError",
        "RankError",
        "SaveError",
        "TrainingError",
        "UserCodeError",
    }


def test_main_prints_the_line_and_returns_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Prevents an error that some tool forgot to translate from ending in a traceback."""

    class Broken(MettaError):
        exit_status = 7

    def fail(argv: object) -> int:
        raise Broken("this\nand that")

    monkeypatch.setattr(main, "_run", fail)
    assert main.main(["runs"]) == 7
    assert capsys.readouterr().err == "metta runs: this and that\n"


def test_a_value_error_of_somebody_else_s_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents numpy's complaint, or one from a user's own agent, from being passed off as a bad argument."""

    def fail(argv: object) -> int:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(main, "_run", fail)
    with pytest.raises(ValueError, match="broadcast"):
        main.main(["runs"])
