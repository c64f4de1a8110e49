"""The built-in model's weights, as package data; `sentinv.load("toybox")` loads them. `toybox/README.md` is their card."""
