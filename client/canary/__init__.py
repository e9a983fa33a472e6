"""A planted patient's name, and the search for it in all that leaves a hospital (THREATS.md T13, T14).

`client/canary/battery.py` starts it. It runs on the hospital's own host too: its Python, its libraries,
its file system.
"""
