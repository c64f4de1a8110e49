"""What is shown of results: pages, charts, tables, contact sheets.

`run_page` is the report of a training run, `html` the page that it is on, `chart` its loss curve; `tables` are Markdown and
HTML. May import `training`, `evaluation`, `editing` and the rooms below them.
"""
