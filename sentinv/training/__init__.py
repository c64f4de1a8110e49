"""Textual inversion: images and an initializer in, a learned word out.

`invert` is the main job; `data` is what a step draws, `objective` what it costs, `loop` the steps, `rescue` what happens at
NaN and where memory ends, `checkpoint` how a run goes on; `memory` estimates, `config` holds the hyper-parameters.
May import `generation` and the rooms below it.
"""
