"""EnvSpec: what its numbers mean."""

from typing import Any

import pytest

from metta.agent.encoders import ImageEncoder
from metta.envs.env_spec import EnvName, EnvSpec


@pytest.mark.parametrize(
    ("shape", "channels_last", "large"),
    [
        ((84, 84, 3), True, True),
        ((210, 160, 3), True, True),  # Atari's screen
        ((160, 210, 3), True, True),
        ((84, 84, 1), True, True),
        ((84, 84, 84), True, True),
        ((64, 64, 100), True, True),
        ((7, 7, 3), True, False),  # MiniGrid
        ((10, 10, 10), True, False),  # MinAtar's Seaquest
        ((10, 10, 4), True, False),
        ((7, 7, 20), True, False),
        ((9, 5, 20), True, False),
        ((5, 9, 3), True, False),
        ((3, 84, 84), False, True),
        ((4, 84, 84), False, True),
        ((1, 84, 84), False, True),
        ((100, 64, 64), False, True),
        ((3, 210, 160), False, True),
        ((20, 7, 7), False, False),
        ((1, 5, 80), False, False),
    ],
)
def test_channels_are_last_unless_the_first_axis_is_the_odd_one_out(
    shape: tuple[int, ...], channels_last: bool, large: bool
) -> None:
    """Rows taken for channels, where there are as many channels as rows or more: MinAtar's Seaquest."""
    spec = EnvSpec(EnvName("e"), 1, "image", shape, "uint8", 2)
    assert (spec.channels_last, spec.large_image) == (channels_last, large)
    layer: Any = ImageEncoder(spec, 8).layers[0]
    assert layer.in_channels == shape[-1 if channels_last else 0]


def test_what_is_no_image_is_no_large_one() -> None:
    """An error about axes from whoever asks it of a vector."""
    assert not EnvSpec(EnvName("e"), 1, "vector", (400,), "float32", 2).large_image
