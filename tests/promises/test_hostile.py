import dataclasses
import io
import itertools
import json
import os
import pickletools
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from metta.agent.policy_agent import PolicyAgent
from metta.agent.untrusted import agent_file
from metta.agent.untrusted.agent_file import load_agent_file
from metta.envs.env_spec import EnvName, EnvSpec, Leaf, TokenSpec
from metta.errors import CheckpointError, UserError, one_line
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager, save_checkpoint
from metta.tools.main import main
from tests.helpers import hostile_corpus

SPEC = EnvSpec(EnvName("CartPole-v1"), 1, "vector", (4,), "float32", 2)
ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 400 << 20  # that the address space may grow while all files are opened
QUIET = {"open", "os.listdir", "os.scandir", "object.__getattr__", "sys._getframe", "import", "builtins.id"}


def open_all(folder: Path) -> None:
    """In a process of its own, started in `folder`: make the corpus, load it without and with trust, print a report."""
    from tests.helpers.hostile_corpus import BARE, CODE, HOSTILE_MODULE, OTHER, SOUND

    (folder / "hostile_module.py").write_text(HOSTILE_MODULE)
    sys.path.insert(0, str(folder))
    files = {"sound": (SOUND, "loaded PolicyAgent"), "bare": (BARE, "loaded PolicyAgent")} | CODE | OTHER
    for name, (content, _) in files.items():
        (folder / f"{name}.pt").write_bytes(content)
    attempt(folder / "sound.pt", trust=False)  # what is imported at the first load is not the files' doing
    attempt(folder / "bare.pt", trust=False)
    one_line("\x1b")
    sys.addaudithook(watch)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, resource.RLIM_INFINITY))
    inspected = {name: (named, *attempt(folder / f"{name}.pt", trust=False)) for name, (_, named) in files.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    trusted = {name: attempt(folder / f"{name}.pt", trust=True)[:2] for name in (*CODE, "custom_class")}
    print(json.dumps({"inspected": inspected, "trusted": trusted, "memory": memory}))


EVENTS: list[str] = []  # of the interpreter's own audit, while it is a list that is watched
WATCHING: list[bool] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING and (event not in QUIET or (event == "open" and str(arguments[1] or "r") not in ("r", "rb"))):
        EVENTS.append(event)


def attempt(path: Path, trust: bool) -> tuple[str, bool, list[str], float]:
    """What came of loading it, whether its code ran, what the audit saw, seconds of processor time."""
    EVENTS.clear()
    WATCHING.append(True)
    before = time.process_time()
    try:
        result = f"loaded {type(load_agent_file(path, trust=trust)).__name__}"
    except CheckpointError as error:
        result = f"CheckpointError: {error}"
    seconds = time.process_time() - before
    WATCHING.clear()
    canary = path.with_name("canary")
    ran = canary.exists()
    canary.unlink(missing_ok=True)
    return result, ran, sorted(set(EVENTS)), seconds


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("corpus")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hostile_files_are_refused_by_name(report):
    """A file from elsewhere that runs its author's code here, fills the memory, or ends in a traceback."""
    results = dict(report["inspected"])
    for name in ("sound", "bare"):  # what the others are made of loads
        expected, result, *_ = results.pop(name)
        assert result == expected
    assert len(results) >= 170  # a corpus that shrinks unseen
    wrong = {
        name: (named, result, ran, events)
        for name, (named, result, ran, events, _) in results.items()
        if not result.startswith("CheckpointError: ") or named not in result or f"{name}.pt" not in result
        or not result.isprintable() or "MemoryError" in result or len(result) > 500 or ran or events
    }  # fmt: skip
    assert wrong == {}, "\n".join(f"{name}: {what}" for name, what in wrong.items())
    slowest = max(results, key=lambda name: results[name][-1])
    print(f"{len(results)} hostile files refused; slowest {slowest} {results[slowest][-1]:.1f} s;", end=" ")
    print(f"peak memory {report['memory']} MB")


def test_trusted_files_do_run_code(report):
    """A corpus that proves nothing, since its files would not run code anywhere; trust=True that does not trust."""
    trusted = dict(report["trusted"])
    assert trusted.pop("custom_class")[0] == "loaded CustomAgent"
    assert not any(trusted.pop(name)[1] for name in ("raw_pickle", "legacy", "legacy_before_zip"))  # no whole zip
    assert len(trusted) >= 40 and {name: result for name, (result, ran) in trusted.items() if not ran} == {}


def test_agent_runs_no_code_wherever_the_file_lies(tmp_path, monkeypatch, capsys):
    """A copied run in train_dir: `agent=` took its files for this machine's own and executed them."""
    (tmp_path / "hostile_module.py").write_text(hostile_corpus.HOSTILE_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    places = [Path("td/stranger/checkpoints/agent_epoch_1.pt"), Path("stranger/checkpoints/agent_epoch_1.pt")]
    places += [Path("agent.pt"), Path("link.pt"), Path("td/linked/checkpoints/agent_epoch_1.pt")]
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        if "link" in str(path):
            path.symlink_to(tmp_path / places[0])
        else:
            path.write_bytes(hostile_corpus.CODE["setstate"][0])
        for tool in ("sim", "play"):
            arguments = [tool, f"agent={path}", "train_dir=td"]
            assert main(arguments) == 2 and not Path("canary").exists()
            assert "refused: global hostile_module.Setstate" in capsys.readouterr().err
            main([*arguments, "trust=true"])
            Path("canary").unlink()  # which would not be there had the file been harmless


def saved(agent: nn.Module) -> bytes:
    output = io.BytesIO()
    torch.save(agent, output)
    return output.getvalue()


def env_specs() -> Iterator[EnvSpec]:
    yield SPEC
    yield EnvSpec(EnvName("Pendulum-v1", {"g": 9.8}), 1, "vector", (3,), "float32", None, (-2.0,), (2.0,), (1,))
    yield EnvSpec(EnvName("MinAtar/Breakout-v1"), 1, "image", (10, 10, 4), "bool", 3)
    yield EnvSpec(EnvName("ALE/Pong-v5"), 1, "image", (4, 84, 84), "uint8", 6)
    speed, gear = Leaf(("speed",), "vector", (2,), "float32"), Leaf(("gear", 0), "flags", (3,), "bool")
    leaves = (speed, gear, Leaf(("eye",), "image", (5, 5, 3), "uint8"))
    choices: Any = {"num_actions": None, "action_sizes": (2, 3), "action_shape": (2,)}
    yield EnvSpec(EnvName("Car-v0"), 1, "composite", (85,), "float32", leaves=leaves, masked=True, **choices)
    features = ((0, "tag", 1.0), (1, "last_action", 1.0), (2, "inv:ore", 255.0))
    tokens = TokenSpec((11, 11), features, ("wall",), ("noop", "move"))
    yield EnvSpec(EnvName("arena", {"num_agents": 4}), 4, "tokens", (200, 3), "uint8", 2, tokens=tokens)


@pytest.mark.parametrize("spec", list(env_specs()), ids=lambda spec: spec.env.name)
@pytest.mark.parametrize("lstm", [False, True], ids=["feedforward", "lstm"])
@pytest.mark.parametrize("checkpoint", [False, True], ids=["torch.save", "checkpoint"])
def test_agents_of_ours_load_without_trust(tmp_path, spec, lstm, checkpoint):
    """A check so strict that an agent of one's own, sent by a friend, needs trust=true."""
    agent = PolicyAgent(spec, hidden_size=16, lstm=lstm)
    path = tmp_path / "agent_epoch_0.pt"
    if checkpoint:
        save_checkpoint(agent, "demo", 0, {}, train_dir=tmp_path)
        path = tmp_path / "demo" / "checkpoints" / path.name
    else:
        torch.save(agent, path)
    loaded = load_agent_file(path)
    assert type(loaded) is PolicyAgent and loaded.env == spec
    assert loaded.state_dict().keys() == agent.state_dict().keys()
    for name, value in agent.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    observations = torch.randint(0, 2, (2, *spec.observation_shape)).to(getattr(torch, spec.observation_dtype))
    expected, _ = agent.act(observations, deterministic=True)
    assert np.array_equal(loaded.act(observations, deterministic=True)[0], expected)


class MyAgent(PolicyAgent):
    pass


def test_agents_of_other_classes_are_refused_by_name(tmp_path):
    """A class of one's own, loaded without its methods; trust=true recommended for what it refuses as well."""
    save_checkpoint(MyAgent(SPEC), "mine", 0, {}, train_dir=tmp_path)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    save_checkpoint(MyAgent(SPEC), "mine", 1, {}, train_dir=tmp_path)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    save_checkpoint(nn.Sequential(nn.Linear(4, 2)), "mine", 2, {}, train_dir=tmp_path)
    named = (f"global {__name__}.MyAgent", "an agent of class MyAgent", "an agent of class torch.nn.*Sequential")
    for epoch, name in enumerate(named):
        path = TinyCheckpointManager("mine", tmp_path).file("agent", epoch)
        with pytest.raises(CheckpointError, match=rf"^refused: {name}.* in {path} \(trust=true takes any PolicyAgent "):
            load_agent_file(path)
        assert isinstance(load_agent_file(path, trust=True), nn.Module)


def test_tables_follow_from_the_environment(tmp_path):
    """Indices from a stranger's file that reach beyond the table they are for, in the middle of an evaluation."""
    agent = PolicyAgent(list(env_specs())[-1], hidden_size=4)
    agent.encoder.channel[77] = 10**6
    torch.save(agent, tmp_path / "agent.pt")
    with pytest.raises(CheckpointError, match=r"^refused: agent\.encoder\.channel that is not as metta makes it"):
        load_agent_file(tmp_path / "agent.pt")


def test_an_agent_with_a_hook_is_refused(tmp_path):
    """Hooks that a real torch.save writes in another way than our corpus does."""
    agent = PolicyAgent(SPEC)
    agent.policy.register_forward_hook(nn.Identity())
    torch.save(agent, tmp_path / "agent.pt")
    with pytest.raises(
        CheckpointError, match=r"^refused: agent\.policy\._forward_hooks\.[0-9]+, .* in .*agent\.pt \(trust=true"
    ):
        load_agent_file(tmp_path / "agent.pt")
    assert isinstance(load_agent_file(tmp_path / "agent.pt", trust=True), PolicyAgent)


def mutated(instructions: list[bytes], rng: random.Random) -> bytes:
    """A pickle with a few instructions lost, doubled or exchanged, or a few bytes changed."""
    changed = list(instructions)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(1, len(changed))
        changed[place] = rng.choice([b"", changed[place] * 2, rng.choice(instructions)])
    content = bytearray(b"".join(changed))
    for _ in range(rng.choice([0, 0, 1, 3])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def open_mutated(path: Path, count: int) -> None:
    agent = PolicyAgent(SPEC, hidden_size=4, lstm=True)
    torch.save(agent, path)
    with zipfile.ZipFile(io.BytesIO(saved(agent))) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("/data.pkl"))
    places = [place for _, _, place in pickletools.genops(entries[name])]
    instructions = [entries[name][a:b] for a, b in itertools.pairwise([*places, len(entries[name])])]
    rng, loaded = random.Random(0), 0
    load_agent_file(path)  # what is imported and allocated once is not the mutants' doing
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        entries[name] = mutated(instructions, rng)
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        try:
            assert type(load_agent_file(path)) is PolicyAgent
            loaded += 1
        except CheckpointError as error:
            assert str(error).isprintable()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert 0 < loaded < count and grown < 50
    print(f"{count} mutated agent files: {count - loaded} refused, {loaded} with harmless changes loaded;", end=" ")
    print(f"peak memory {grown} MB more than before")


def test_mutated_files_end_in_one_error(tmp_path):
    """A broken file that ends in a KeyError from the depths, or in a module with hooks."""
    open_mutated(tmp_path / "agent.pt", 200)


@pytest.mark.slow
def test_many_mutated_files_end_in_one_error(tmp_path):
    """As above, 10,000 times."""
    open_mutated(tmp_path / "agent.pt", 10_000)


def test_paths_that_are_no_files(tmp_path):
    """A process that hangs on a pipe or reads a device for ever; a traceback for a missing file."""
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    for path in (tmp_path / "none.pt", tmp_path / "loop.pt"):
        with pytest.raises(CheckpointError, match=f"^no file {path}$"):
            load_agent_file(path)
    for path in (tmp_path, tmp_path / "pipe.pt", Path("/dev/zero")):
        for trust in (False, True):
            with pytest.raises(CheckpointError, match=f"^{path} is not a file$"):
                load_agent_file(path, trust=trust)


def test_trusted_files_are_checked_for_damage(tmp_path):
    """Wrong weights from a flipped bit, which torch loads without a word."""
    content = bytearray(saved(PolicyAgent(SPEC)))
    content[content.index(b"data/0") + 200] ^= 1
    path = tmp_path / "agent.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"agent\.pt is damaged: entry .*data/0 has the wrong CRC"):
        load_agent_file(path, trust=True)
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match=r"agent\.pt holds a dict where an agent \(an nn\.Module\) should be"):
        load_agent_file(path, trust=True)


def test_the_file_that_was_checked_is_the_one_that_is_loaded(tmp_path, monkeypatch):
    """A file swapped for a hostile one between the check and the reading of its numbers."""
    path = tmp_path / "agent.pt"
    agent = PolicyAgent(SPEC)
    torch.save(agent, path)
    real = agent_file.compare

    def swap_and_compare(*arguments: Any) -> None:
        torch.save(nn.Linear(1, 1), tmp_path / "other")
        (tmp_path / "other").rename(path)
        real(*arguments)

    monkeypatch.setattr(agent_file, "compare", swap_and_compare)
    assert torch.equal(load_agent_file(path).state_dict()["policy.weight"], agent.policy.weight)


def test_an_agent_that_cannot_act_is_refused(tmp_path):
    """A trusted file of parts that make no agent: a traceback from within torch tells nobody whose fault."""
    agent = PolicyAgent(SPEC, hidden_size=8)
    del agent.policy
    torch.save(agent, tmp_path / "agent.pt")
    with PolicyEvaluator(tmp_path) as evaluator, pytest.raises(CheckpointError, match="holds an agent that cannot act"):
        evaluator.score(evaluator.load_file(tmp_path / "agent.pt", trust=True), episodes=1)


@pytest.mark.parametrize("name", ["evil.py:Evil", "./evil.py:SUITE/a", "evil:Evil", "os:system", "__main__:Evil"])
def test_a_stranger_s_file_does_not_choose_code(tmp_path, monkeypatch, capsys, name):
    """An environment that `sim agent=` imports, since the stranger's file says that it was trained on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("open('canary', 'w')\nclass Evil: pass\nSUITE = {'a': Evil}\n")
    torch.save(PolicyAgent(dataclasses.replace(SPEC, env=EnvName(name)), hidden_size=4), "agent.pt")
    for arguments in (["sim"], ["play"], ["sim", "env=CartPole-v1"]):
        assert main([*arguments, "agent=agent.pt"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"an environment called {name}, which would import a module" in said
    assert not Path("canary").exists() and "evil" not in sys.modules


def test_a_stranger_s_file_does_not_choose_wrappers(tmp_path, monkeypatch, capsys):
    """Code that comes in by a setting of an environment of Gymnasium's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('canary', 'w')\ndef f(env): return env\n")
    env = EnvName("CartPole-v1", {"wrappers": f"{tmp_path}/evil.py:f"})
    torch.save(PolicyAgent(dataclasses.replace(SPEC, env=env), hidden_size=4), "agent.pt")
    assert main(["sim", "agent=agent.pt"]) == 2
    assert "may not choose settings of an environment" in capsys.readouterr().err
    assert main(["sim", "agent=agent.pt", "env=CartPole-v1", "episodes=1"]) == 0
    assert not Path("canary").exists()


def test_a_stranger_s_file_does_not_choose_settings(tmp_path):
    """An arena of 60,000 agents and 100,000 steps, which `sim agent=` played without end."""
    huge = {"num_agents": 60_000, "width": 700, "height": 700, "max_steps": 100_000}
    arena = list(env_specs())[-1]
    for name, settings in (("arena", huge), ("ALE/Pong-v5", {}), ("CartPole-v1", {"max_episode_steps": 10**9})):
        path = tmp_path / "agent.pt"
        torch.save(PolicyAgent(dataclasses.replace(arena, env=EnvName(name, settings)), hidden_size=4), path)
        given = " ".join([f"env={name}", *(f"env.{key}={value}" for key, value in settings.items())])
        with PolicyEvaluator(tmp_path) as evaluator:
            loaded = evaluator.load_file(path)
            with pytest.raises(UserError, match=f"^agent={path} may not choose .*: to play as .*, give {given}$"):
                evaluator.score(loaded, episodes=1)
            with pytest.raises(UserError, match="cannot act in CartPole-v1"):
                evaluator.score(loaded, env="CartPole-v1", episodes=1)
            assert evaluator.load_file(path, trust=True).own_env().settings == settings


if __name__ == "__main__":
    open_all(Path(sys.argv[1]))
