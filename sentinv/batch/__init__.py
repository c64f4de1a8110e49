"""Folders and lists of pictures: a word for each, exactly once, on one machine or many.

Lists are read by `lists`, `tasks` say what is to be learned, `book` what is there already; `learner` learns, here or, by
`cluster`, in the workers of a Ray cluster; `index` shows the result.
"""
