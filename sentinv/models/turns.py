"""Whose turn it is: of several threads, one at a time changes what they share of a model."""

from __future__ import annotations

from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_GUARD = Lock()


def turn(backbone: Any) -> Any:
    """The lock of a model, a `Backbone`, to be held in a ``with`` block while it is not as it was loaded; other threads wait.

    Two backbones that share their UNet share the lock. The thread that holds it may take it again.
    """
    with _GUARD:
        return _LOCKS.setdefault(backbone.unet, RLock())
