"""How simulated hospitals share the cores of this machine."""

import os


def share_of_cores(hospitals: int) -> tuple[int, int]:
    """(hospitals at work at a time, threads for each) on the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    workers = max(1, min(hospitals, cores))
    return workers, max(1, cores // workers)
