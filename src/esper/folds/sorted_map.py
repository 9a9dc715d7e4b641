"""A sorted map that is never changed: setting a key gives a new map that shares nearly everything with the old one.

Folds keep what grows with a run in it, so that a step over 10,000 seeds copies a few hundred pointers and not 10,000. It is a tree of two
levels: pairs in chunks of at most `2 * _HALF`, and the first key of every chunk beside them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar


class _Ordered(Protocol):
    """A key that sorts and hashes."""

    def __lt__(self, other: Any, /) -> bool: ...  # Any: the type checker's own bisect asks no more of keys.
    def __hash__(self) -> int: ...


K = TypeVar("K", bound=_Ordered)
V = TypeVar("V")

_HALF = 32


class SortedMap(Mapping[K, V]):
    """An immutable map in the order of its keys. Equal to any map with the same items."""

    __slots__ = ("_chunks", "_firsts")

    def __init__(self, items: Iterable[tuple[K, V]] = ()) -> None:
        pairs = sorted(dict(items).items(), key=_key)
        self._chunks: tuple[tuple[tuple[K, V], ...], ...] = tuple(tuple(pairs[at : at + _HALF]) for at in range(0, len(pairs), _HALF))
        self._firsts: tuple[K, ...] = tuple(chunk[0][0] for chunk in self._chunks)

    def __getitem__(self, key: K) -> V:
        _, chunk, at = self._place(key)
        if at < len(chunk) and chunk[at][0] == key:
            return chunk[at][1]
        raise KeyError(key)

    def __iter__(self) -> Iterator[K]:
        return (key for chunk in self._chunks for key, _ in chunk)

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    def __repr__(self) -> str:
        return f"SortedMap({list(self.items())!r})"

    def with_item(self, key: K, value: V) -> "SortedMap[K, V]":
        """This map with `key` set to `value`."""
        place, chunk, at = self._place(key)
        known = at < len(chunk) and chunk[at][0] == key
        grown = (*chunk[:at], (key, value), *chunk[at + known :])
        return self._replaced(place, (grown,) if len(grown) <= 2 * _HALF else (grown[:_HALF], grown[_HALF:]))

    def without(self, key: K) -> "SortedMap[K, V]":
        """This map without `key`; itself where it has none."""
        place, chunk, at = self._place(key)
        if not (at < len(chunk) and chunk[at][0] == key):
            return self
        shrunk = (*chunk[:at], *chunk[at + 1 :])
        return self._replaced(place, (shrunk,) if shrunk else ())

    def _place(self, key: K) -> tuple[int, tuple[tuple[K, V], ...], int]:
        place = max(bisect_right(self._firsts, key) - 1, 0)
        chunk = self._chunks[place] if self._chunks else ()
        return place, chunk, bisect_left(chunk, key, key=_key)

    def _replaced(self, place: int, chunks: tuple[tuple[tuple[K, V], ...], ...]) -> "SortedMap[K, V]":
        made: SortedMap[K, V] = SortedMap.__new__(SortedMap)
        made._chunks = (*self._chunks[:place], *chunks, *self._chunks[place + 1 :])
        made._firsts = (*self._firsts[:place], *(chunk[0][0] for chunk in chunks), *self._firsts[place + 1 :])
        return made


def _key(pair: tuple[K, V]) -> K:
    return pair[0]
