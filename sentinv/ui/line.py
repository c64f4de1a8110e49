"""Who may use the model: one at a time, in the order of coming, and everybody sees their place."""

from __future__ import annotations

from threading import Condition
from types import TracebackType

from sentinv.errors import SentinvError

LONGEST = 12
"""How many may stand in line; who comes then is sent away, so that nobody can fill the memory by asking."""


class Line:
    """The line in front of the model."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._changed = Condition()

    def join(self, what: str) -> Turn:
        """Stand in line, from the `with` block of the turn on.

        Args:
            what: is to be done, as others are told: "learning <cat>".
        """
        return Turn(self, what)

    def current(self) -> str:
        """What is being done; "" if nothing is."""
        with self._changed:
            return self._turns[0].what if self._turns else ""

    def _enter(self, turn: Turn) -> None:
        with self._changed:
            if len(self._turns) >= LONGEST:
                raise SentinvError(f"{LONGEST} others are waiting already: try again when some of them are done")
            self._turns.append(turn)

    def _leave(self, turn: Turn) -> None:
        with self._changed:
            self._turns.remove(turn)
            self._changed.notify_all()

    def _place(self, turn: Turn) -> int:
        return self._turns.index(turn)


class Turn:
    """A place in line; that of the model's user is 0.

    Attributes:
        what: is to be done.
    """

    def __init__(self, line: Line, what: str) -> None:
        self.line, self.what = line, what

    def __enter__(self) -> Turn:
        self.line._enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.line._leave(self)

    @property
    def place(self) -> int:
        """How many are before this one."""
        with self.line._changed:
            return self.line._place(self)

    def ready(self, seconds: float = 0.5) -> bool:
        """Whether it is this one's turn; waits a while for it."""
        with self.line._changed:
            return self.line._changed.wait_for(lambda: self.line._place(self) == 0, seconds)

    def told(self) -> str:
        """Where one stands, in words."""
        with self.line._changed:
            place, now = self.line._place(self), self.line._turns[0].what
        before = "" if place == 1 else f" {place - 1} more before you."
        return f"Waiting: the model is busy {now}.{before}"
