"""Initializers: callables that look at an image and say in words where its placeholder should start."""
