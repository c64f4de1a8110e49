"""What can go wrong, told in one line."""


class SentinvError(Exception):
    """Something the user can act on: what was expected, what was got, what to do."""
