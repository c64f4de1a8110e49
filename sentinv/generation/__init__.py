"""Images from prompts with learned words in them.

`denoiser` asks a model for the noise, with guidance; `generate` samples. May import `concepts`, `models`, `diffusion`, `files`.
"""
