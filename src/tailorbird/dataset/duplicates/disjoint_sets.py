"""Unite items into groups."""

from __future__ import annotations


class DisjointSets:
    """Disjoint sets of N items."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, item: int) -> int:
        """Return the smallest item of the set that `item` is in."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        """Unite the sets of two items."""
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)
