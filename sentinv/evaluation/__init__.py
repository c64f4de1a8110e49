"""Measures: how well a learned word shows its thing, and how well it can be edited.

`judges` are the models that look at pictures, `metrics` the formulas, `statistics` means with bootstrap intervals, `evaluate`
scores a concept. May import `generation` and the rooms below it.
"""
