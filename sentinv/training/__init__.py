"""Textual inversion: images and an initializer in, a learned word out.

`invert` is the main job; `data` is what a step draws, `objective` what it costs, `loop` the steps, `rescue` what happens at
NaN and where memory ends, `checkpoint` how a run goes on; `tune` trains a LoRA around the word, `blend` draws and costs what
keeps either from learning more than the thing, `reaction` finds where that is; `memory` estimates, `config` holds the
hyper-parameters.
May import `generation` and the rooms below it.
"""
