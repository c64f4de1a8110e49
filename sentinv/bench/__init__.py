"""The studies: grids of trainings, edits of real images, speed; resumable, with records, tables and figures.

`study` declares, `trials` train and measure, `runner` keeps records, `study_*` report; `editing_*` is the study of edits;
`speed` and `step_meter` time a step. Imports every other room but the command line.
"""
