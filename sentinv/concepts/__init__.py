"""Learned words: what they are, what they are called, where they start, and the file that each is in.

`concept` and `layouts` are the file; `initialization` turns an initializer's words into starting rows; `placeholder` lets a
model see rows; `prompts`, `names` and `tokens` take prompts apart. May import `models` and `files`.
"""
