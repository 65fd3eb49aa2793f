"""Means and variances of data that lie in parts, merged in one fixed order whoever has computed which part."""

from typing import Any, NamedTuple, Self

import numpy as np


class Moments(NamedTuple):
    """Count, mean, and sum of squared deviations from it: numbers, or arrays of them."""

    count: Any
    mean: Any
    m2: Any

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both parts' data together (Chan et al. 1979); a part may be empty."""
        total = self.count + other.count
        delta, weight = other.mean - self.mean, total + (total == 0)
        m2 = self.m2 + (other.m2 + delta**2 * self.count * other.count / weight)
        return Moments(total, self.mean + delta * other.count / weight, m2)

    @property
    def std(self) -> Any:
        return np.sqrt(self.m2 / (self.count + (self.count == 0)))

    @classmethod
    def of(cls, array: np.ndarray) -> Self:
        """Of all numbers of an array, as float64."""
        if array.size == 0:
            return cls(0.0, 0.0, 0.0)
        return cls(np.float64(array.size), array.mean(dtype=np.float64), array.var(dtype=np.float64) * array.size)


def merged(table: np.ndarray) -> Moments:
    """The moments of all parts together, from a table `[parts, ..., 3]`: of neighbours, of pairs, of fours, ..."""
    while len(table) > 1:
        even = len(table) // 2 * 2
        left, right = (Moments(*np.moveaxis(table[first:even:2], -1, 0)) for first in (0, 1))
        table = np.concatenate((np.stack(left.merge(right), -1), table[even:]))
    return Moments(*np.moveaxis(table[0], -1, 0))
