"""Which environments train, of eight packages: benchmarks/environments.md, in an hour on one core.

    .venv/bin/python benchmarks/environments.py
    .venv/bin/python benchmarks/environments.py quick  # in two minutes: 1,024 steps of each, by short epochs

They need more than `make test` installs: .venv/bin/pip install 'gymnasium[box2d,mujoco]' minatar minigrid.
Each is trained for a few steps (to see that it works; learning.py says how well), evaluated beside a random agent, and
resumed in the middle of its episodes, which must give the bits of the run that was not interrupted.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mettagrid.config.game_value import InventoryValue
from mettagrid.config.handler_config import Handler, updateActor
from mettagrid.config.mettagrid_config import (
    ActionsConfig,
    AgentConfig,
    ChangeVibeActionConfig,
    GameConfig,
    GridObjectConfig,
    MettaGridConfig,
    MoveActionConfig,
    NoopActionConfig,
    WallConfig,
)
from mettagrid.config.reward_config import reward
from mettagrid.map_builder.random_map import RandomMapBuilder

from metta.envs.env_spec import EnvSpec
from metta.errors import MettaError, UserError
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.one_run import Trainer, load_trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig

RESULTS = Path(__file__).with_name("environments.md")
EPISODES = 10
QUICK = {"num_envs": 4, "horizon": 64, "update_epochs": 2, "total_timesteps": 1_024}
PETTINGZOO = "pettingzoo.{}:parallel_env"
ENVS: list[tuple[str, str, dict[str, Any], int]] = [  # package, env=, settings, agent steps
    ("Gymnasium", "FrozenLake-v1", {}, 20_000),
    ("Gymnasium", "Taxi-v4", {}, 20_000),
    ("Gymnasium", "Blackjack-v1", {}, 20_000),
    ("Gymnasium", "CliffWalking-v1", {"max_episode_steps": 100}, 20_000),
    ("Gymnasium", "CartPole-v1", {}, 20_000),
    ("Gymnasium", "Pendulum-v1", {}, 20_000),
    ("Box2D", "LunarLander-v3", {}, 20_000),
    ("MuJoCo", "Hopper-v5", {}, 20_000),
    ("ALE", "ALE/Pong-v5", {"max_episode_steps": 100}, 2_000),
    ("MinAtar", "MinAtar/Breakout-v1", {}, 10_000),
    ("MiniGrid", "MiniGrid-Empty-5x5-v0", {"preprocessing": False}, 20_000),
    ("PettingZoo", PETTINGZOO.format("butterfly.knights_archers_zombies_v11"), {"max_cycles": 100}, 20_000),
    ("PettingZoo", PETTINGZOO.format("sisl.multiwalker_v9"), {"max_cycles": 60}, 20_000),
    ("PettingZoo", PETTINGZOO.format("sisl.pursuit_v5"), {"max_cycles": 30}, 20_000),
    ("PettingZoo", PETTINGZOO.format("classic.rps_v2"), {}, 20_000),
    ("MettaGrid", f"{Path(__file__).resolve()}:orchard", {}, 20_000),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("pettingzoo.classic.tictactoe_v3:env", {}),
    (PETTINGZOO.format("butterfly.knights_archers_zombies_v11"), {"vector_state": False, "max_steps": 3}),
    (f"{Path(__file__).resolve()}:stacked", {}),
    (f"{Path(__file__).resolve()}:whole_numbers", {}),
]


def orchard(seed: int, trees: int = 12) -> MettaGridConfig:
    """Four agents pick apples on a map that differs from episode to episode."""
    tree = GridObjectConfig(name="tree", on_use_handler=Handler(mutations=[updateActor({"apple": 1})]))
    size, no_vibes = 9 + seed % 4, ChangeVibeActionConfig(enabled=False)
    game = GameConfig(num_agents=4, max_steps=60, episode_truncates=True, resource_names=["apple"])
    game.objects = {"tree": tree, "wall": WallConfig()}
    game.agent = AgentConfig(rewards={"apple": reward(InventoryValue(item="apple"), weight=0.1)})
    game.actions = ActionsConfig(move=MoveActionConfig(), noop=NoopActionConfig(), change_vibe=no_vibes)
    game.map_builder = RandomMapBuilder.Config(  # type: ignore[misc]
        agents=4, width=size, height=size, border_width=1, objects={"tree": trees}
    )
    return MettaGridConfig(game=game)


def stacked() -> Any:
    """Pictures of four dimensions."""
    import gymnasium
    import minigrid  # noqa: F401 (registers its ids)

    env: Any = gymnasium.make("MiniGrid-Empty-5x5-v0")
    env = gymnasium.wrappers.TransformObservation(env, lambda seen: seen["image"], env.observation_space["image"])
    return gymnasium.wrappers.FrameStackObservation(env, 4)


def whole_numbers() -> Any:
    """Actions that are a box of whole numbers."""
    import gymnasium
    import numpy as np

    env = gymnasium.make("Pendulum-v1")
    return gymnasium.wrappers.TransformAction(env, lambda a: a / 5, gymnasium.spaces.Box(-9, 9, (1,), np.int64))


def described(spec: EnvSpec) -> tuple[str, str]:
    """Say what is seen and what is done, in a few words each."""
    parts = spec.leaves or (spec,)
    kinds = [getattr(part, "kind", spec.observation_kind) for part in parts]
    shapes = [getattr(part, "shape", spec.observation_shape) for part in parts]
    seen = ", ".join(f"{kind} {'x'.join(map(str, shape))}" for kind, shape in zip(kinds, shapes, strict=True))
    done = "x".join(map(str, spec.choices)) or f"Box {'x'.join(map(str, spec.action_shape))}"
    return seen, done + (", masked" if spec.masked else "")


def bits(trainer: Trainer) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in trainer.agent.state_dict().values())


def row(package: str, env: str, settings: dict[str, Any], train_dir: Path, **values: Any) -> str:
    """Train, resume, evaluate; returns a row of the table."""
    run = "run"
    config = TrainConfig(run=run, env=env, env_settings=settings, train_dir=str(train_dir), num_workers=0, **values)
    trainer = Trainer(config)
    while not trainer.complete:
        trainer.run_epoch()
    trained, manager = trainer.agent_steps, TinyCheckpointManager(run, train_dir)
    manager.save_checkpoint(trainer.agent, trainer.epoch, trainer.state_dict())
    with PolicyEvaluator(train_dir, num_workers=0) as evaluator:
        name = trainer.spec.env
        score = evaluator.evaluate(run, trainer.epoch, episodes=EPISODES)
        chance = evaluator.evaluate_random(name, episodes=EPISODES)
    resumed = load_trainer(manager, TrainConfig(run=run, train_dir=str(train_dir)), frozenset())
    assert resumed is not None
    for each in (trainer, resumed):
        each.run_epoch()
    exact = "yes" if bits(trainer) == bits(resumed) else "no"
    seen, done = described(trainer.spec)
    agents = trainer.spec.num_agents
    trainer.close()
    resumed.close()
    label = name.label.replace("|", "\\|")
    cells = package, f"`{label}`", agents, seen, done, f"{trained:,}", f"{score.mean:.2f}", f"{chance.mean:.2f}", exact
    return f"| {' | '.join(map(str, cells))} |"


def refusal(env: str, settings: dict[str, Any], train_dir: Path) -> str:
    try:
        Trainer(TrainConfig(run="run", env=env, env_settings=settings, train_dir=str(train_dir))).close()
    except UserError as error:
        return f"- `{Path(env).name}`: {str(error).replace(str(Path(__file__).parent) + '/', '')}"
    raise AssertionError(f"{env} is not refused")


def main() -> None:
    torch.set_num_threads(1)
    lines = [(__doc__ or "").split("\n\n")[2].strip().replace("\n", " "), ""]
    lines += [
        f"Scores are means over {EPISODES} episodes: of the likeliest actions where an agent is alone, and of chance.",
        "",
        "| package | environment | agents | observations | actions | agent steps | score | random | exact resume |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for package, env, settings, steps in ENVS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                values = QUICK if "quick" in sys.argv else {"total_timesteps": steps}
                lines.append(row(package, env, settings, Path(folder), **values))
            except MettaError as error:
                lines.append(f"| {package} | `{env}` | | {error} | | | | | |")
        print(lines[-1], flush=True)
    if "quick" in sys.argv:
        lines.insert(3, "Measured with `quick`: the scores say that each can be played, not how well it is learned.\n")
    lines += ["", "Refused, with these lines:", ""]
    with tempfile.TemporaryDirectory() as folder:
        lines += [refusal(env, settings, Path(folder)) for env, settings in REFUSED]
    RESULTS.write_text("# Environments\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
