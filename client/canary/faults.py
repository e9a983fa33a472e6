"""The faults of the canary's battery, one at a time."""

import errno
import fcntl
import io
import os
import sqlite3

import numpy as np
import torch
from PIL import Image, ImageFile
from safetensors import SafetensorError

from client import chain, vault
from client.canary import damage, sayings
from client.canary.battery import CONTROL
from client.canary.ct_faults import SERIES
from client.canary.injecting import (
    Fault,
    clock_fails,
    damaged,
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
    Fault("list the patients", fails(os, "listdir", system(), of_data), layout="classes"),
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
    Fault("make a folder", fails(os, "mkdir", FULL, of_state)),
    Fault("connect to the ledger", fails(sqlite3, "connect", database(sqlite3.SQLITE_CANTOPEN))),
    Fault("read the ledger", database_fails(database(sqlite3.SQLITE_CORRUPT), at="SELECT")),
    Fault("check the ledger", database_fails(database(sqlite3.SQLITE_IOERR), at="PRAGMA")),
    Fault("write the ledger", database_fails(database(sqlite3.SQLITE_BUSY), at="INSERT")),
    Fault("commit the ledger", database_fails(database(sqlite3.SQLITE_FULL), at="commit")),
]

DATA = [
    Fault(name, damaged(change), ends="refused")
    for name, change in [
        ("an image cut off", damage.truncated),
        ("an image that is none", damage.no_image),
        ("an image with a broken header", damage.broken_header),
        ("an image with a palette", damage.palette),
        ("an image with a megabyte of text", damage.much_text),
        ("an image of 60,000 x 60,000", damage.bomb),
        ("an image that is a pipe", damage.pipe),
        ("an image that leads outside", damage.link_to_outside),
        ("an image that is gone", damage.no_file),
        ("a data folder that is gone", damage.no_folder),
        ("a row of an unknown image", damage.row(f"{TEXT}.png,nodule,{TEXT},training,")),
        ("a row of an unknown class", damage.row(f"1.png,{TEXT},{TEXT},training,")),
        ("a row of an unknown side", damage.row(f"1.png,nodule,{TEXT},{TEXT},")),
        ("a row without a patient", damage.row(f"{TEXT}.png,nodule,,training,{NAME}")),
        ("a row with too many cells", damage.row(f"1.png,nodule,{TEXT},training,,{TEXT}")),
        ("a quote that is not closed", damage.row(f'1.png,nodule,"{TEXT},training')),
        ("a manifest not in UTF-8", damage.row(f"{TEXT}\xe9.png,nodule,{TEXT},training,")),
        ("a path out of the folder", damage.row(f"../{TEXT}.png,nodule,{TEXT},training,")),
        ("a manifest of other columns", damage.columns(f"{TEXT},image,image")),
    ]
]
DATA += [
    Fault("a file of another name", damaged(damage.odd_name), "classes", ends="refused"),
    Fault("a class of another name", damaged(damage.odd_class), "classes", ends="refused"),
]

LIBRARIES = [
    Fault("Pillow cannot open", fails(Image, "open", of(OSError))),
    Fault("Pillow cannot decode", fails(ImageFile.ImageFile, "load", of(SyntaxError))),
    Fault("Pillow fears a bomb", fails(Image, "open", of(Image.DecompressionBombWarning))),
    Fault("NumPy has no memory", fails(np, "empty", of(MemoryError))),
    Fault("NumPy cannot convert", fails(np, "asarray", of(TypeError))),
    Fault("NumPy cannot write", fails(np, "savez", FULL)),
    Fault("torch: forward", fails(torch.nn.functional, "conv2d", of(RuntimeError))),
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

BATTERY = {
    "files": FILES,
    "data": DATA,
    "CT series": SERIES,
    "libraries": LIBRARIES,
    "errors": ERRORS,
    "words": WORDS,
    # The last: what the search must find, or it is blind.
    CONTROL: [Fault("a vault that leaks on purpose", leaks)],
}
