"""A user's mistake: one line on stderr, exit status 2, no file left or changed, and torch not imported for it."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A tool as `metta` runs it; the last line of stdout says whether torch was imported.
METTA = """
import sys
from metta.tools.main import main
status = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(status)
"""
TINY = ("num_envs=2", "horizon=8", "minibatch_size=16", "update_epochs=1", "display=none")


def metta(folder: Path, *argv: str, code: str = METTA) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder with its time of change and content."""
    return {
        str(path): (path.lstat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs a and b in its train_dir, of three epochs, both with files that are not whole."""
    folder = tmp_path_factory.mktemp("tools")
    result = metta(folder, "train", "run=a", "env=CartPole-v1", "total_timesteps=48", "checkpoint_interval=1", *TINY)
    assert result.returncode == 0, result.stderr
    shutil.copytree(folder / "train_dir/a", folder / "train_dir/b")
    agent = (folder / "train_dir/a/checkpoints/agent_epoch_3.pt").read_bytes()
    (folder / "cut.pt").write_bytes(agent[: len(agent) // 2])
    (folder / "text.pt").write_text("not an agent")
    (folder / "agent.py").write_text("class Other:\n    pass\n")
    (folder / "a_file").write_text("")
    return folder


def refused(folder: Path, argv: Sequence[str], torch: bool = False) -> str:
    """The line that the tool says; checks all that a refusal must be."""
    before = files(folder)
    result = metta(folder, *argv)
    assert result.returncode == 2, result.stderr
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
    assert files(folder) == before
    assert result.stdout.split() == [str(torch)]
    return result.stderr.rstrip("\n")


TRAIN_MISTAKES = {
    "run=new env=arena learning_rat=1": "unknown key learning_rat=: did you mean learning_rate?",
    "run=new env=arena seed=x": "seed=x: not a whole number, as in 2_000_000",
    "run=new run=new env=arena": "run= is given twice: new and new",
    "env=arena": "missing run=: name of the run: letters, digits, '.', '_' and '-'",
    "run=new": "missing env=: run new is new, so say what to train on, as in env=arena",
    "run=new env=arena agent=no.py:Mine": "agent=no.py:Mine: no file no.py",
    "run=new env=arena agent=no.module:Mine": "agent=no.module:Mine: no module no.module",
    "run=new env=arena agent=agent.py": "agent=agent.py: expected path/to/file.py:MyAgent or package.module:MyAgent",
    "run=new env=arena train_dir=a_file": "a_file is not a folder",
    "run=a env=Pendulum-v1": "env=Pendulum-v1: run a was started with env=CartPole-v1, and keeps that to its end",
    "run=a env.max_episode_steps=3": "env.max_episode_steps=3: run a was started without it, and keeps that to its end",
}


@pytest.mark.parametrize("line", TRAIN_MISTAKES)
def test_train(trained: Path, line: str) -> None:
    assert refused(trained, ["train", *line.split()]) == f"metta train: {TRAIN_MISTAKES[line]}"


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", ".", "a/b", "a b", "é", "a\nb", "~", "a" * 300])
@pytest.mark.parametrize("tool", ["train", "sim"])
def test_run_names_cannot_leave_train_dir(trained: Path, tool: str, name: str) -> None:
    message = refused(trained, [tool, f"run={name}", "env=CartPole-v1"])
    assert message.startswith(f"metta {tool}: run=") and "letters, digits" in message


@pytest.mark.parametrize("tool", ["train", "sim"])
def test_an_unknown_environment_gets_the_nearest_names(trained: Path, tool: str) -> None:
    message = refused(trained, [tool, "run=new" if tool == "train" else "run=a", "env=CartPol-v1"])
    assert message.startswith(f"metta {tool}: env=CartPol-v1 ") and "CartPole-v1" in message


def test_an_unknown_setting_gets_those_that_exist(trained: Path) -> None:
    assert "sutton_barto_reward" in refused(trained, ["train", "run=new", "env=CartPole-v1", "env.max_step=5"])


def test_a_resumed_run_keeps_its_learning_rate(trained: Path) -> None:
    message = refused(trained, ["train", "run=a", "learning_rate=0.5"])
    assert message.startswith("metta train: learning_rate=0.5: run a was started with learning_rate=0.0")


OWN = "train_dir/a/checkpoints/agent_epoch_3.pt"
SIM_MISTAKES = {
    "": "missing run=: a run in train_dir, or an agent file with agent=",
    "run=a epoch=7": "no checkpoint for epoch=7 in train_dir/a/checkpoints: have 0, 1, 2, 3",
    "run=a epoch=7..9": "no checkpoint for epoch=7..9 in train_dir/a/checkpoints: have 0, 1, 2, 3",
    "run=a epoch=1..2 watch=true": "epoch=1..2: watch=true takes epoch=latest or epoch=all",
    "run=c": "no run c with a checkpoint in ./train_dir: have a, b",
    "run=a train_dir=nowhere": "no run a with a checkpoint in nowhere: there is none yet",
    "run=a epoch=best": "epoch=best: run a has no scores yet: `metta sim run=a epoch=all` evaluates every checkpoint",
    "run=a epoch=best env=CartPole-v1 env.max_episode_steps=9": "epoch=best: run a has no scores in CartPole-v1"
    "[max_episode_steps=9] yet: `metta sim run=a env=CartPole-v1 env.max_episode_steps=9 epoch=all` evaluates every "
    "checkpoint",
    "run=a,c": "no run c with a checkpoint in ./train_dir: have a, b",
    "run=x*": "no run matches x* in ./train_dir: have a, b",
    "run=a,": "run='' is not a run name: use letters, digits, '.', '_' and '-', at most 200",
    "run=a epoch=best sampled=true": "epoch=best: run a has no scores yet: `metta sim run=a sampled=true epoch=all`"
    " evaluates every checkpoint",
    "run=a epoch=3 watch=true": "epoch=3: watch=true takes epoch=latest or epoch=all",
    "agent=no.pt": "agent=no.pt: no such file",
    "agent=text.pt": "agent=text.pt: not an agent file, or not a whole one",
    "agent=cut.pt": "agent=cut.pt: not an agent file, or not a whole one",
    f"agent={OWN} run=b": f"run=b: agent={OWN} is run=a",
    f"agent={OWN} epoch=2": f"epoch=2: agent={OWN} is epoch=3",
    f"agent={OWN} epoch=all": f"agent={OWN}: one file has no epoch=all",
    f"agent={OWN} epoch=1..9": f"agent={OWN}: one file has no epoch=1..9",
    "run=a episodes=0": "episodes=0: must be at least 1",
    "run=a epoch=new": "epoch=new: must be a number, a range as in 20..60, latest, best or all",
}


@pytest.mark.parametrize("line", SIM_MISTAKES)
def test_sim(trained: Path, line: str) -> None:
    assert refused(trained, ["sim", *line.split()]) == f"metta sim: {SIM_MISTAKES[line]}"


def test_a_damaged_checkpoint_of_a_run(trained: Path) -> None:
    """What torch alone can tell comes after its import, but is one line as well."""
    path = trained / "train_dir/b/checkpoints/agent_epoch_2.pt"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        assert "train_dir/b/checkpoints/agent_epoch_2.pt" in refused(trained, ["sim", "run=b", "epoch=2"], torch=True)
    finally:
        path.write_bytes(whole)


def test_no_tool(trained: Path) -> None:
    assert refused(trained, ["trian"]) == "metta: no tool trian: did you mean train?"
    assert (
        refused(trained, ["xyz"])
        == "metta: no tool xyz: have train, launch, sim, play, replay, analyze, runs, pull, push, scores"
    )


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "train_dir").mkdir()
    (tmp_path / "train_dir/eval.db").write_text("not a database, though it is long enough to have a header of one " * 4)
    for argv in (["sim", "run=a"], ["runs"]):
        assert "eval.db is not a score database" in refused(tmp_path, argv)


def test_control_characters_stay_on_the_line(tmp_path: Path) -> None:
    assert refused(tmp_path, ["train", "run=a", "x\x1b[2J\ny=1"]) == (
        "metta train: unknown key x\\x1b[2J y=: `metta train --help` lists the keys"
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_metta_alone_lists_the_tools(tmp_path: Path, argv: list[str]) -> None:
    result = metta(tmp_path, *argv)
    assert result.returncode == 0 and result.stderr == ""
    for tool in ("train", "sim", "play", "replay", "analyze", "runs"):
        assert f"  {tool} " in result.stdout


def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    code = METTA.replace(
        "status = main",
        "import metta.tools.main as m\nm._run = lambda a: (_ for _ in ()).throw(KeyboardInterrupt)\nstatus = main",
    )
    result = metta(tmp_path, "runs", code=code)
    assert (result.returncode, result.stderr) == (128 + signal.SIGINT, "")


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    code = METTA.replace('print("torch" in sys.modules)\n', "")
    command = f'\'{sys.executable}\' -c "$CODE" train --help; echo "status $?" >&2'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": code}
    result = subprocess.run(
        ["bash", "-c", f"({command}) | true"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr.split("\n")[0] in ("status 0", f"status {128 + signal.SIGPIPE}"), result.stderr


@pytest.mark.parametrize("tool", ["train", "sim", "play", "replay", "analyze", "runs"])
def test_launchers_work_from_any_folder(tmp_path: Path, tool: str) -> None:
    """./tools/train.py is executable, needs no installed metta, and says what `metta train` says."""
    result = subprocess.run(
        [ROOT / "tools" / f"{tool}.py", "no_such=1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"metta {tool}: unknown key no_such=: `metta {tool} --help` lists the keys\n"


@pytest.mark.parametrize(
    "command", ["runs", "train run=b env=CartPole-v1 total_timesteps=8 num_envs=1 horizon=8", "trian"]
)
def test_closed_output_is_no_traceback(tmp_path: Path, command: str) -> None:
    """A queue system that closes stdout and stderr: `AttributeError: 'NoneType' object has no attribute 'isatty'`."""
    shell = f"{sys.executable} -m metta.tools.main {command} >&- 2>&-; echo $? >status"
    subprocess.run(["sh", "-c", shell], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert (tmp_path / "status").read_text() == ("2\n" if command == "trian" else "0\n")


def test_closed_input_is_no_traceback(trained: Path) -> None:
    shell = f"{sys.executable} -m metta.tools.main play run=a <&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", shell], cwd=trained, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_is_not_utf_8_is_no_traceback(tmp_path: Path) -> None:
    """A name with a letter that the output's encoding lacks (PYTHONIOENCODING=ascii): UnicodeEncodeError."""
    (tmp_path / "Ünï").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "metta.tools.main", "runs", "train_dir=Ünï"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(r"no runs in \xdcn\xef yet: ")
