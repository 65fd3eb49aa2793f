"""Tables, on a terminal and in a pipe."""

import sys

import pytest

from metta.tools.cli.table import print_table

LABEL = "CartPole-v1[max_episode_steps=20]"
ROWS = [("a", LABEL, "1.00"), ("b", "x[/red]", "12.00"), ("c", "\x1b]0;owned\x07y\nz", "3.00")]


@pytest.mark.parametrize("terminal", [False, True])
def test_cells_are_text_and_nothing_else(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Prevents rich from reading an environment's settings as markup, and a trainer file from setting the title.

    The settings were gone on a terminal, so two evaluations looked like the same environment; "[/x]" was a traceback.
    """
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    if terminal:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("run", "env [a]", "score"), ROWS, left=2)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert "env [a]" in heading
    assert [line.split()[:2] for line in lines[:2]] == [["a", LABEL], ["b", "x[/red]"]]
    assert "\\x1b]0;owned\\x07y z" in lines[2] and len(lines) == 3
    assert "\x1b]" not in lines[2] and "\x07" not in lines[2]
    ends = {line.rstrip().replace("\x1b[0m", "").rstrip()[-4:] for line in lines}
    assert ends == {"1.00", "2.00", "3.00"}


def test_a_row_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One long environment's settings made `runs` 136 columns wide: every row wrapped, and the columns were lost."""
    monkeypatch.setenv("COLUMNS", "60")
    rows = [("a", "arena[" + "max_steps=100," * 6 + "]", "1.00", "a" * 20), ("b", "arena", "12.00", "")]
    print_table(("run", "env", "score", "more"), rows, left=2)
    assert max(map(len, capsys.readouterr().out.splitlines())) > 100  # a pipe gets all of it
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("run", "env", "score", "more"), rows, left=2)
    _, first, second = capsys.readouterr().out.splitlines()
    assert len(first) == 60 and "arena[max_steps=100,ma" in first and "…   1.00  " + "a" * 20 in first
    assert second.split() == ["b", "arena", "12.00"]


def test_a_row_with_several_long_cells_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """A long name beside a long environment, and a score in yet another: 193 columns where there are 80."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(
        ("run", "env", "score", "at"), [("r" * 90, "e" * 90, "94.53 [90.01, 99.00] in " + "f" * 60, "163")], left=2
    )
    assert {len(line) for line in capsys.readouterr().out.splitlines()[1:]} == {80}
