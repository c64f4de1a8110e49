"""Loaded models: the one place where model families differ.

`backbone` is what the algorithms need of a diffusers pipeline; `names` says what a model's name stands for, `loading` loads
it, `single_file` one checkpoint file; `built_in` finds the toybox and checks its files; `parts` tells every failure in one
line. May import `diffusion`.
"""
