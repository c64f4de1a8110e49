"""Learned words: what they are, what they are called, where they start, and the file that each is in.

`concept` and `layouts` are the file; `reading` finds it, or its two halves, `png_words` looks into pictures, `kinds` names what
is no word; `export` writes what other programs read. `initialization` turns words into starting rows; `placeholder` lets a
model see rows; `prompts`, `names` and `tokens` take prompts apart. May import `models` and `files`.
"""
