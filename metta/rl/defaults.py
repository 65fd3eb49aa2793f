"""What a setting is when nobody gave it: by the kind of environment, since no one value suits all of them."""

from metta.envs.env_spec import EnvSpec
from metta.errors import UserError
from metta.rl.train_config import CODE, RunConfig, TrainConfig
from metta.user_code import resolved_place

# Measured by benchmarks/learning.py: each kind reaches that table's targets without a flag. minibatches: that many in a
# pass over a rollout, where minibatch_size is not given.
# MinAtar's Breakout after 500k steps: 14.8, and 5.6 with the settings of large images (5 seeds each).
# Arena's return after 2M steps was 18.8 with a vf_coef of 0.5 (3 seeds), 21.9 with 1 (2), 22.1 with 2 (3).
COLUMNS = (
    "total_timesteps", "horizon", "minibatches", "update_epochs", "learning_rate", "gamma", "ent_coef", "vf_coef",
)  # fmt: skip
DEFAULTS = {  # a row for each kind of environment
    "vector, discrete":   (200_000,   128, 4,  10, 5e-4,   0.99, 0.0,  0.5),
    "vector, continuous": (500_000,   256, 8,  10, 1e-3,   0.95, 0.0,  0.5),
    "small image":        (500_000,   256, 32, 10, 5e-4,   0.99, 0.0,  0.5),
    "image":              (1_000_000, 128, 4,  4,  5e-4,   0.99, 0.01, 0.5),
    "tokens":             (2_000_000, 64,  8,  4,  1.5e-3, 0.99, 0.01, 1.0),
}  # fmt: skip


def with_defaults(config: TrainConfig, env: EnvSpec, device: str) -> RunConfig:
    """Decide what was not given, by the kind of environment. device: "cpu", "cuda" or "mps"."""
    if env.images:
        kind = "image" if any(image.large_image for image in env.images) else "small image"
    elif env.observation_kind == "tokens":
        kind = "tokens"
    else:
        kind = "vector, discrete" if env.choices else "vector, continuous"
    given = {name: value for name, value in vars(config).items() if value is not None}
    by_kind = dict(zip(COLUMNS, DEFAULTS[kind], strict=True))
    decided = {"num_envs": 8, "gae_lambda": 0.95, **by_kind, **given}
    decided |= {"env": env.env.name, "env_settings": env.env.settings}
    num_envs, rollout = decided["num_envs"], decided["num_envs"] * env.num_agents * decided["horizon"]
    decided.setdefault("minibatch_size", max(1, rollout // decided["minibatches"]))
    del decided["minibatches"]
    # Two where there is enough to do; never by the machine's cores, for the bits depend on it.
    much = kind in ("image", "tokens") or num_envs >= 32
    decided.setdefault("num_shards", 2 if device == "cpu" and num_envs > 1 and much else 1)
    if decided["num_shards"] > num_envs:
        raise UserError(f"num_shards={decided['num_shards']}: must be at most num_envs={num_envs}")
    places = {name: resolved_place(decided[name]) for name in CODE if isinstance(decided.get(name), str)}
    return RunConfig(**{**decided, **places})
