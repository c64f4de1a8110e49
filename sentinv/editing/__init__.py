"""Edits of real images, all of one or inside a mask.

`inversion` finds the noise that an image comes from (DDIM inversion), `archive` keeps it, `edit` samples from it with other
words, `masked` edits inside a mask, `reconstruction` says which stage loses what. May import `evaluation`, `generation` and
the rooms below them.
"""
