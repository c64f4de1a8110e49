"""How sentinv's built-in model is made: the world it knows, its training programs, its measurements."""
