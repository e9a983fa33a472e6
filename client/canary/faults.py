"""The faults of the canary's battery that can strike whatever a study's task is, one at a time."""

import errno
import fcntl
import io
import os
import sqlite3
from collections.abc import Sequence

import numpy as np
import torch
from safetensors import SafetensorError

from client import chain, vault
from client.canary import sayings
from client.canary.battery import CONTROL
from client.canary.hospital import Planted
from client.canary.injecting import (
    Fault,
    clock_fails,
    database_fails,
    fails,
    leaks,
    meanwhile,
    of_data,
    of_state,
    state_itself,
    stream_fails,
)
from client.canary.names import NAME, TEXT
from client.canary.sayings import database, of, system
from common import messages
from common.errors import DataError

FULL = system(errno.ENOSPC)

FILES = [
    Fault("look at a patient's file", fails(os, "lstat", system(), of_data)),
    Fault("follow a link of the data", fails(os, "readlink", system(), of_data)),
    Fault("open a patient's file", fails(os, "open", system(errno.EACCES), of_data)),
    Fault("ask what was opened", fails(os, "fstat", system(), of_data)),
    Fault("read a patient's file", stream_fails(system(), of_data)),
    Fault("look at a folder of patients", fails(os, "stat", system(), of_data)),
    Fault("look at a file of the state", fails(os, "stat", system(errno.EACCES), of_state)),
    Fault("open a file of the state", fails(os, "open", system(errno.EMFILE), of_state)),
    Fault("open a log of the state", fails(io, "open", system(errno.EROFS), of_state)),
    Fault("lock the state", fails(fcntl, "flock", system(errno.ENOLCK), of_state)),
    Fault("write the state", stream_fails(FULL, of_state)),
    Fault("write at a place", fails(os, "pwrite", FULL, of_state)),
    Fault("cut off a log", fails(os, "ftruncate", FULL, of_state)),
    Fault("sync a file", fails(os, "fsync", FULL, of_state)),
    Fault("sync the folder", fails(os, "fsync", system(), state_itself)),
    Fault("rename in the state", fails(os, "replace", FULL, of_state)),
    Fault("unlink in the state", fails(os, "unlink", system(), of_state)),
    Fault("connect to the ledger", fails(sqlite3, "connect", database(sqlite3.SQLITE_CANTOPEN))),
    Fault("read the ledger", database_fails(database(sqlite3.SQLITE_CORRUPT), at="SELECT")),
    Fault("check the ledger", database_fails(database(sqlite3.SQLITE_IOERR), at="PRAGMA")),
    Fault("write the ledger", database_fails(database(sqlite3.SQLITE_BUSY), at="INSERT")),
    Fault("commit the ledger", database_fails(database(sqlite3.SQLITE_FULL), at="commit")),
]

LIBRARIES = [
    Fault("NumPy has no memory", fails(np, "empty", of(MemoryError))),
    Fault("NumPy cannot convert", fails(np, "asarray", of(TypeError))),
    Fault("torch: forward", fails(torch.nn.Module, "__call__", of(RuntimeError))),
    Fault("torch: backward", fails(torch.Tensor, "backward", of(RuntimeError))),
    Fault("torch: no memory", fails(torch.Tensor, "backward", of(torch.OutOfMemoryError))),
    Fault("torch: load", fails(torch.nn.Module, "load_state_dict", of(KeyError, NAME))),
    Fault("torch: from NumPy", fails(torch, "from_numpy", of(TypeError))),
    Fault("torch: step", fails(torch.optim.SGD, "step", of(AssertionError))),
    Fault("safetensors cannot save", fails(messages, "save", of(SafetensorError))),
    Fault("safetensors cannot load", fails(messages, "load", of(SafetensorError))),
    Fault("the clock of the books", clock_fails(chain, of(ValueError, f"time zone {TEXT}"))),
    Fault("the clock of the vault", clock_fails(vault, of(OverflowError))),
]

ERRORS = [
    Fault(name, meanwhile(sayings.throw(make)))
    for name, make in [
        ("KeyError", of(KeyError, NAME)),
        ("ImportError", lambda: ImportError(TEXT, name=NAME, path=sayings.PATH)),
        ("UnicodeDecodeError", sayings.undecodable),
        ("JSONDecodeError", sayings.malformed),
        ("StopIteration", of(StopIteration)),
        ("TimeoutError", of(TimeoutError)),
        ("RecursionError", of(RecursionError)),
        ("an error that fails to say what it is", sayings.MuteError),
        ("an error whose class is named so", sayings.named_class),
        ("a group of errors", sayings.grouped),
        ("a sentence of ours with its cause", sayings.caused),
        ("a cause of a cause", sayings.caused_from_afar),
        ("a sentence about data", of(DataError)),
        ("a sentence about the model", sayings.caused_by_data),
        ("a panic of Rust", of(sayings.Panic)),
        ("an exit with a text", of(SystemExit)),
    ]
]

WORDS = [
    Fault(name, meanwhile(act))
    for name, act in [
        ("a warning", sayings.warn),
        ("a warning by class and place", sayings.warn_by_class_and_place),
        ("a library's log", sayings.log_of_a_library),
        ("a library's own handler", sayings.log_by_a_handler_of_its_own),
        ("a line of ours with an error", sayings.own_line_with_an_error),
        ("a line of ours with an object", sayings.own_line_with_an_object),
        ("a line of ours that does not fit", sayings.own_line_that_does_not_fit),
        ("a print", sayings.print_it),
        ("an error in a thread", sayings.die_in_a_thread),
        ("an error in a destructor", sayings.die_unraisably),
    ]
]


# Of what a hospital keeps of each model's quality, where that is judged.
SCORES = [
    Fault("make a folder of scores", fails(os, "mkdir", FULL, of_state)),
    Fault("NumPy cannot write scores", fails(np, "savez", FULL)),
]


def battery_of(planted: Planted) -> dict[str, Sequence[Fault]]:
    """All faults of a task by group, in order."""
    return {
        "files": FILES,
        **planted.FAULTS,
        **({"scores": SCORES} if planted.STUDY.evaluates(1) else {}),
        "libraries": LIBRARIES,
        "errors": ERRORS,
        "words": WORDS,
        # The last: what the search must find, or it is blind.
        CONTROL: [Fault("a vault that leaks on purpose", leaks)],
    }
