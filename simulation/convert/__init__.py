"""Public data sets in their published files -> this project's layout, a folder for each hospital.

Where to get them, what their labels mean and under which licence they are: docs/datasets.md.
"""

HOSPITALS = "hospitals"  # below what is written: the folder for --data
HELD_OUT = "held-out"  # beside it: patients whom no hospital has
