"""The keys of every command, their types and defaults: whoever adds, renames or changes one changes this table."""

from dataclasses import MISSING

import pytest

from metta.keys import Config, keys, kinds, type_text
from metta.rl.train_config import TrainConfig
from metta.tools.cli.config import (
    AnalyzeConfig,
    LaunchConfig,
    PlayConfig,
    PullConfig,
    PushConfig,
    ReplayConfig,
    RunsConfig,
    ScoresConfig,
    SimConfig,
)
from metta.tools.main import TOOLS

COMMANDS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "launch": LaunchConfig,
    "sim": SimConfig,
    "play": PlayConfig,
    "replay": ReplayConfig,
    "analyze": AnalyzeConfig,
    "runs": RunsConfig,
    "pull": PullConfig,
    "push": PushConfig,
    "scores": ScoresConfig,
}
OPTIONS = {
    "train": """
        run TEXT required
        env TEXT None
        agent TEXT None
        init TEXT None
        fork TEXT None
        trust true|false False
        seed INT 0
        device TEXT auto
        total_timesteps INT None
        num_envs INT None
        num_shards INT None
        num_workers INT None
        horizon INT None
        minibatch_size INT None
        update_epochs INT None
        learning_rate NUM None
        anneal_lr true|false True
        gamma NUM None
        gae_lambda NUM None
        clip_coef NUM 0.2
        vf_coef NUM None
        vf_clip NUM None
        ent_coef NUM None
        max_grad_norm NUM 0.5
        target_kl NUM None
        loss TEXT None
        optimizer TEXT None
        hidden_size INT None
        lstm true|false False
        checkpoint_interval INT 20
        keep_last INT None
        evaluate INT None
        on_epoch TEXT None
        display auto|rich|plain|none auto
        mirror TEXT None
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
    "launch": """
        nproc INT None
        max_restarts INT 0
    """,
    "sim": """
        run TEXT None
        epoch TEXT latest
        env TEXT None
        episodes INT 100
        seed INT 0
        sampled true|false False
        num_envs INT None
        device TEXT cpu
        agent TEXT None
        trust true|false False
        executor local|slurm|ray local
        random true|false False
        watch true|false False
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
    "play": """
        run TEXT None
        epoch TEXT latest
        env TEXT None
        seed INT 0
        sampled true|false False
        agent TEXT None
        trust true|false False
        random true|false False
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
    "replay": """
        run TEXT required
        epoch TEXT latest
        env TEXT None
        seed INT 0
        sampled true|false False
        format auto|gif|mp4|html|mettascope auto
        out TEXT None
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
    "analyze": """
        runs TEXT required
        format html|png|csv html
        out TEXT None
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
    "runs": """
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
    "pull": """
        mirror TEXT required
        run TEXT required
        train_dir TEXT ./train_dir
    """,
    "push": """
        mirror TEXT required
        run TEXT required
        train_dir TEXT ./train_dir
    """,
    "scores": """
        runs TEXT None
        export TEXT None
        copy_to TEXT None
        eval_db TEXT None
        train_dir TEXT ./train_dir
    """,
}


OPTIONS["launch"] = OPTIONS["train"].rstrip() + OPTIONS["launch"]


@pytest.mark.parametrize("command", TOOLS)
def test_options(command: str) -> None:
    """A key that came in, or a default that changed, unseen in review: users' commands and runs depend on them."""
    config_class = COMMANDS[command]
    options = []
    for name, declared in keys(config_class).items():
        default = "required" if declared.default is MISSING else declared.default
        options.append(f"{name} {type_text(kinds(config_class)[name][0])} {default}")
    assert options == [line.strip() for line in OPTIONS[command].strip().splitlines()]
