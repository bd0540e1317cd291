"""Two ways to keep what was computed: by bytes, least recently used first out; and for as long as an object lives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Invariant: the stated sizes of all entries together never exceed `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._used = 0
        self._lock = Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Keep `value`; one that is larger than the whole cache is not kept."""
        with self._lock:
            _, old_size = self._entries.pop(key, (None, 0))
            self._used -= old_size
            if size > self.limit:
                return
            self._entries[key] = (value, size)
            self._used += size
            while self._used > self.limit:
                _, (_, freed) = self._entries.popitem(last=False)
                self._used -= freed

    @property
    def used(self) -> int:
        return self._used


def once_an_object(function: Callable[[Any], Value]) -> Callable[[Any], Value]:
    """The function, computed once for each object and kept while that lives. For values that are compared by identity."""
    known: WeakKeyDictionary[Any, Value] = WeakKeyDictionary()

    @wraps(function)
    def kept(item: Any) -> Value:
        if item not in known:
            known[item] = function(item)
        return known[item]

    return kept
