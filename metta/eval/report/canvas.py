"""A drawing surface for pictures: sizes in points, drawn large and scaled down, so that edges are smooth."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

DRAWN = 4  # pixels per point while drawing
SAVED = 2  # in the picture

Point: TypeAlias = tuple[float, float]
PAPER, INK, MUTED, LINE = "#ffffff", "#16181d", "#5f6672", "#e3e6eb"


@lru_cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * DRAWN)


def text_width(text: str, size: float = 12) -> float:
    return font(size).getlength(text) / DRAWN


class Canvas:
    """`width` x `height` points, white."""

    def __init__(self, width: float, height: float):
        self.image = Image.new("RGB", (round(width * DRAWN), round(height * DRAWN)), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, at: Point, text: str, size: float = 12, colour: str = MUTED, anchor: str = "ls") -> None:
        """`anchor` as in Pillow: l, m or r, then s for the baseline or m for the middle."""
        self._draw.text((at[0] * DRAWN, at[1] * DRAWN), text, font=font(size), fill=colour, anchor=anchor)

    def slanted(self, at: Point, text: str, size: float, colour: str) -> None:
        """Text that begins at `at` and rises to the right."""
        width, height = round(text_width(text, size) * DRAWN), round(size * 1.5 * DRAWN)
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).text((0, height), text, font=font(size), fill=255, anchor="ld")
        turned = mask.rotate(42, expand=True, resample=Image.Resampling.BICUBIC)
        corner = (round(at[0] * DRAWN), round(at[1] * DRAWN) - turned.height)
        self.image.paste(colour, (*corner, corner[0] + turned.width, corner[1] + turned.height), turned)

    def line(self, points: Sequence[Point], colour: str, width: float = 1, dash: Sequence[float] = ()) -> None:
        for piece in dashed(points, dash) if dash else [points]:
            scaled = [(x * DRAWN, y * DRAWN) for x, y in piece]
            self._draw.line(scaled, fill=colour, width=round(width * DRAWN), joint="curve")

    def area(self, points: Sequence[Point], colour: str, opacity: float) -> None:
        shape = [(x * DRAWN, y * DRAWN) for x, y in points]
        left, top = (math.floor(min(column)) for column in zip(*shape, strict=True))
        right, bottom = (math.ceil(max(column)) + 1 for column in zip(*shape, strict=True))
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in shape], fill=round(255 * opacity))
        self.image.paste(colour, (left, top, right, bottom), mask)

    def circle(self, at: Point, radius: float, colour: str) -> None:
        x, y, r = at[0] * DRAWN, at[1] * DRAWN, radius * DRAWN
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def box(self, at: Point, size: Point, colour: str, radius: float = 0) -> None:
        corner = (at[0] * DRAWN, at[1] * DRAWN, (at[0] + size[0]) * DRAWN, (at[1] + size[1]) * DRAWN)
        self._draw.rounded_rectangle(corner, radius * DRAWN, fill=colour)

    def finish(self) -> Image.Image:
        return self.image.reduce(DRAWN // SAVED)


def dashed(points: Sequence[Point], dash: Sequence[float]) -> list[list[Point]]:
    """The drawn pieces of a line: `dash` is lengths on, off, on, off, ..."""
    pieces: list[list[Point]] = [[points[0]]]
    number, left = 0, dash[0]
    for start, end in itertools.pairwise(points):
        length = math.dist(start, end)
        done = 0.0
        while length - done > left:
            done += left
            share = done / length
            there = (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)
            if number % 2 == 0:
                pieces[-1].append(there)
            else:
                pieces.append([there])
            number += 1
            left = dash[number % len(dash)]
        left -= length - done
        if number % 2 == 0:
            pieces[-1].append(end)
    return [piece for piece in pieces if len(piece) > 1]


def blend(colour: str, share: float, other: str = "#f6f7f9") -> str:
    """`share` of one colour over the other, both #rrggbb."""
    mixed = (round(int(colour[i : i + 2], 16) * share + int(other[i : i + 2], 16) * (1 - share)) for i in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in mixed)
