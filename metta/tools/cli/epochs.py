"""What epoch= means: one checkpoint of a run, or several."""

from typing import Literal

Epoch = int | Literal["latest", "best"]
Epochs = Epoch | range | Literal["all"]

WORDS: dict[str, Literal["latest", "best"]] = {"latest": "latest", "best": "best"}
DIGITS = 18  # that an epoch has at most: eval.db counts in 64 bits


def parse_epoch(text: str) -> Epoch:
    """Read what may be asked of one checkpoint. ValueError says what it must be."""
    epoch = WORDS.get(text, _number(text))
    if epoch is None:
        raise ValueError("a number, latest or best")
    return epoch


def parse_epochs(text: str) -> Epochs:
    """Read what may be asked of several."""
    first, dots, last = text.partition("..")
    low, high = _number(first), _number(last)
    if dots and low is not None and high is not None and low <= high:
        return range(low, high + 1)
    epochs: Epochs | None = "all" if text == "all" else WORDS.get(text, _number(text))
    if epochs is None:
        raise ValueError("a number, a range as in 20..60, latest, best or all")
    return epochs


def epoch_text(epochs: Epochs) -> str:
    """The value as it was typed."""
    return f"{epochs.start}..{epochs.stop - 1}" if isinstance(epochs, range) else str(epochs)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS else None
