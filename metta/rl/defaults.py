"""What a setting is when nobody gave it: by the kind of environment, since no one value suits all of them."""

from metta.envs.env_spec import EnvSpec
from metta.errors import UserError
from metta.rl.train_config import CODE, RunConfig, TrainConfig
from metta.user_code import resolved_place

# Measured by benchmarks/learning.py: each kind reaches that table's targets without a flag.
# minibatch: its size in environment steps, whatever num_envs is: more environments make more minibatches, not larger
# ones, and change the speed rather than the learning.
# Vectors, 1 seed each: HalfCheetah-v5 after 1M steps had 5,914 with these, 4,716 with a learning_rate of 5e-4 and
# minibatches of 128, 1,695 with 1e-3 and 256. Pendulum-v1 after 500k -151 (-161 with 1e-3, 256 and a gamma of 0.95),
# LunarLander-v3 after 500k 161 (82 with 5e-4 and 256). Hopper-v5 alone had more with 1e-3 and 256: 3,362, and 1,946.
# MinAtar's Breakout after 500k steps: 14.8, and 5.6 with the settings of large images (5 seeds each, before its layer
# norm).
# Arena's return after 2M steps was 18.8 with a vf_coef of 0.5 (3 seeds), 21.9 with 1 (2), 22.1 with 2 (3).
COLUMNS = (
    "total_timesteps", "horizon", "minibatch", "update_epochs", "learning_rate", "gamma", "ent_coef", "vf_coef",
)  # fmt: skip
DEFAULTS = {  # a row for each kind of environment
    "vector, discrete":   (200_000,   128, 64,  10, 3e-4,   0.99, 0.0,  0.5),
    "vector, continuous": (1_000_000, 256, 64,  10, 3e-4,   0.99, 0.0,  0.5),
    "small image":        (500_000,   256, 64,  10, 5e-4,   0.99, 0.0,  0.5),
    "image":              (1_000_000, 128, 256, 4,  5e-4,   0.99, 0.01, 0.5),
    "tokens":             (2_000_000, 64,  64,  4,  1.5e-3, 0.99, 0.01, 1.0),
}  # fmt: skip


def help_table() -> str:
    """Format what the keys are that are decided by the environment, for --help."""
    kinds = [kind.replace(", ", ",\n").split("\n") for kind in DEFAULTS]
    lines = ["Decided by the environment's spaces, where not given:", ""]
    for row in range(2):
        lines.append(" " * 18 + "".join(f"{kind[row] if row < len(kind) else '':>12}" for kind in kinds))
    for column, *values in zip(COLUMNS, *DEFAULTS.values(), strict=True):
        lines.append(f"  {column.replace('minibatch', 'minibatch_size'):16}" + "".join(f"{v:>12,}" for v in values))
    return "\n".join([*lines, "", *NOTES])


NOTES = (
    "  small image: fewer than 36 pixels a side; tokens: arena, navigation and other",
    "  MettaGrid games. minibatch_size is for one agent: times the number of agents.",
    "  num_envs 8; gae_lambda 0.95; num_shards 2 on a CPU for images, tokens and from",
    "  num_envs 32 on, else 1.",
)


def kind_of(env: EnvSpec) -> str:
    """Tell which row of DEFAULTS an environment has."""
    if env.images:
        return "image" if any(image.large_image for image in env.images) else "small image"
    if env.observation_kind == "tokens":
        return "tokens"
    return "vector, discrete" if env.choices else "vector, continuous"


def with_defaults(config: TrainConfig, env: EnvSpec, device: str) -> RunConfig:
    """Decide what was not given, by the kind of environment. device: "cpu", "cuda" or "mps"."""
    kind = kind_of(env)
    given = {name: value for name, value in vars(config).items() if value is not None}
    by_kind = dict(zip(COLUMNS, DEFAULTS[kind], strict=True))
    by_kind["minibatch_size"] = by_kind.pop("minibatch") * env.num_agents
    decided = {"num_envs": 8, "gae_lambda": 0.95, **by_kind, **given}
    decided |= {"env": env.env.name, "env_settings": env.env.settings}
    num_envs = decided["num_envs"]
    # Two where there is enough to do; never by the machine's cores, for the bits depend on it.
    much = kind in ("image", "tokens") or num_envs >= 32
    decided.setdefault("num_shards", 2 if device == "cpu" and num_envs > 1 and much else 1)
    if decided["num_shards"] > num_envs:
        raise UserError(f"num_shards={decided['num_shards']}: must be at most num_envs={num_envs}")
    places = {name: resolved_place(decided[name]) for name in CODE if isinstance(decided.get(name), str)}
    return RunConfig(**{**decided, **places})
