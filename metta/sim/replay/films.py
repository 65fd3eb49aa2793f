"""A recorded episode made again, from its seed and actions, as a file that people can open."""

import importlib.util
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from metta.envs.env_spec import EnvName
from metta.envs.make_env import Env, is_mettagrid, make_env
from metta.envs.mettagrid.env import MettaGridEnv
from metta.envs.mettagrid.game import with_map
from metta.envs.mettagrid.games import GAMES
from metta.errors import UserError
from metta.files.durable import rename_over, written_beside
from metta.sim.recording import Source
from metta.sim.replay.page import write_page
from metta.sim.single_env import SingleEnv, difference, replay_steps

SUFFIXES = {"gif": ".gif", "mp4": ".mp4", "html": ".html", "mettascope": ".json.z"}
GIF_SIDE = 640  # pixels: larger pictures are reduced
GIF_FRAMES = 1000  # of longer episodes every second, third, ... frame is left out
SMALL_SIDE = 200  # pixels: smaller pictures (MinAtar's 10x10) are enlarged
MIN_FRAME_MS = 20  # browsers show a GIF's shorter frames for 100 ms


def replay_path(recordings: Path, seed: int, format: str) -> Path:
    """Name the replay of a recording: `epoch_100_arena_seed_3.html` beside `epoch_100_arena.npz`."""
    return recordings.with_name(f"{recordings.name.removesuffix('.npz')}_seed_{seed}{SUFFIXES[format]}")


def write_replay(source: Source, format: str, path: Path) -> str | None:
    """Replay the episode and write the file, of a format that `check_format` lets pass, atomically.

    Returns None if all went as recorded, else the difference in words. UserError if the environment cannot be made, or
    draws no pictures.
    """
    write = {"html": write_page, "mettascope": write_mettascope}.get(format, partial(write_film, format))
    differences: list[str | None] = []
    with written_beside(path, lambda file: differences.append(write(source, file))) as new:
        rename_over(new, path)
    return differences[0]


def check_format(format: str, env: EnvName) -> None:
    """Raise UserError if this environment has no file of this format, without making the environment."""
    if format in ("html", "mettascope") and not is_mettagrid(env):
        raise UserError(f"format={format} is for MettaGrid ({', '.join(GAMES)}): {env.short_name} takes gif or mp4")
    if format == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            "format=mp4 needs the package imageio-ffmpeg (pip install imageio-ffmpeg); format=gif works without"
        )


def write_film(format: str, source: Source, file: IO[bytes]) -> str | None:
    """Write a GIF or MP4 of the environment's own pictures, at its own speed."""
    env = make_env(source.env, "rgb_array")
    try:
        check_pictures(env)
        single = SingleEnv(env)
        frames = (single.picture() for _ in replay_steps(single, source.recording))
        fps = frames_per_second(env)
        if format == "gif":
            write_gif(frames, len(source.recording.actions) + 1, fps, file)
        else:
            write_mp4(frames, fps, file)
        return difference(single, source.recording)
    finally:
        env.close()


def check_pictures(env: Env) -> None:
    modes = env.metadata.get("render_modes", ["rgb_array"]) or []
    if "rgb_array" not in modes:
        have = " and ".join(modes) or "none"
        raise UserError(f"env={env.spec.env.short_name} draws no pictures: it has render_mode {have}")


def frames_per_second(env: Env) -> float:
    """Read its speed, 30 where it says none. UserError where that is no number above 0."""
    given = env.metadata.get("render_fps") or 30
    with suppress(TypeError, ValueError):
        if 0 < (fps := float(given)) < math.inf:
            return fps
    raise UserError(f"env={env.spec.env.short_name} has render_fps={given!r} in its metadata: not a number above 0")


def write_gif(frames: Iterator[np.ndarray], num_frames: int, fps: float, file: IO[bytes]) -> None:
    """Write a GIF. Each frame is quantised by itself: 2 ms for 600x400, where an adaptive palette takes 20."""
    from PIL import Image

    skip = max(math.ceil(num_frames / GIF_FRAMES), math.ceil(fps * MIN_FRAME_MS / 1000))

    def pictures() -> Iterator[Image.Image]:
        for index, frame in enumerate(frames):
            if index % skip == 0 or index == num_frames - 1:
                picture = Image.fromarray(enlarged(frame))
                picture = picture.reduce(math.ceil(max(picture.size) / GIF_SIDE))
                yield picture.quantize(256, Image.Quantize.FASTOCTREE)

    each = pictures()
    milliseconds = 10 * round(100 * skip / fps)  # a GIF counts in hundredths of a second
    next(each).save(file, "GIF", save_all=True, append_images=each, duration=milliseconds, loop=0)


def enlarged(frame: np.ndarray) -> np.ndarray:
    """Repeat the pixels of a picture that is too small to look at, without smoothing."""
    times = math.ceil(SMALL_SIDE / max(frame.shape[:2]))
    return frame.repeat(times, 0).repeat(times, 1)


def write_mp4(frames: Iterator[np.ndarray], fps: float, file: IO[bytes]) -> None:
    import imageio.v2 as imageio

    writer: Any = imageio.get_writer(file, "mp4", fps=fps, macro_block_size=2)  # type: ignore[arg-type]  # IO is enough
    with writer:
        for frame in frames:
            frame = enlarged(frame)
            writer.append_data(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])  # H.264 wants even sides


def write_mettascope(source: Source, file: IO[bytes]) -> str | None:
    """Write MettaGrid's own replay file by its own Simulation, which must pay the same rewards at every step."""
    from mettagrid.simulator import Simulation
    from mettagrid.simulator.replay_log_writer import EpisodeReplay

    recording = source.recording
    env = make_env(source.env)
    assert isinstance(env, MettaGridEnv)
    grid = env.game.draw_map(recording.seed)  # which says what the configuration is
    simulation = Simulation(with_map(env.game.config(), grid), recording.seed)
    log, core = EpisodeReplay(simulation), simulation._c_sim
    single = SingleEnv(env)
    differing = None
    for step in replay_steps(single, recording):
        if step > 0:
            core.actions()[:], core.vibe_actions()[:] = env.divided(recording.actions[step - 1])
            simulation.step()
            log.log_step(simulation.current_step, core.actions(), core.rewards())
            if differing is None and not np.array_equal(core.rewards(), single.rewards):
                differing = f"MettaGrid's own Simulation gives other rewards at step {step}"
    file.write(zlib.compress(json.dumps(log.get_replay_data()).encode()))
    simulation.close()
    return difference(single, recording) or differing
