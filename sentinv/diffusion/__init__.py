"""The mathematics of diffusion, on plain tensors: no models, no prompts.

`schedule` is a model's noise schedule, `conversions` goes between epsilon, v and clean latents, `ddim` steps between noise
levels in both directions. This room imports no other.
"""
