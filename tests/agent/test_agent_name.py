"""agent=, read without torch."""

from pathlib import Path

import pytest

from metta.agent.agent_name import check_agent_name, resolved_agent_name
from metta.errors import UserError


@pytest.mark.parametrize("name", ["Mine", ":Mine", "mine.py:", "mine.py:not a name", "mine.py:3"])
def test_what_names_no_class_is_refused(name: str) -> None:
    """Prevents a mistyped agent= from being found out seconds later, when torch is there."""
    with pytest.raises(UserError, match="expected path/to/file.py:MyAgent or package.module:MyAgent$"):
        check_agent_name(name)


def test_file_or_module_must_be_there(tmp_path: Path) -> None:
    """Prevents a traceback for a file that is elsewhere, and for a module named __main__."""
    (tmp_path / "mine.py").touch()
    check_agent_name(f"{tmp_path}/mine.py:Mine")
    check_agent_name("metta.agent.policy_agent:PolicyAgent")
    with pytest.raises(UserError, match=f"no file {tmp_path}/other.py$"):
        check_agent_name(f"{tmp_path}/other.py:Mine")
    with pytest.raises(UserError, match="no module no_such$"):
        check_agent_name("no_such:Mine")


def test_a_file_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents ./mine.py:Mine from being refused as another agent than mine.py:Mine when a run is resumed."""
    monkeypatch.chdir(tmp_path)
    names = ["mine.py:Mine", "./mine.py:Mine", f"{tmp_path}/mine.py:Mine"]
    assert {resolved_agent_name(name) for name in names} == {f"{tmp_path}/mine.py:Mine"}
    assert resolved_agent_name("package.module:Mine") == "package.module:Mine"
    assert resolved_agent_name(None) is None
