"""The faults of the canary's battery at a hospital with images."""

import os

import torch
from PIL import Image, ImageFile

from client.canary import damage
from client.canary.injecting import Fault, damaged, fails, of_data
from client.canary.names import NAME, TEXT
from client.canary.sayings import of, system

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
DATA.append(Fault("list the patients", fails(os, "listdir", system(), of_data), "classes"))

LIBRARIES = [
    Fault("Pillow cannot open", fails(Image, "open", of(OSError))),
    Fault("Pillow cannot decode", fails(ImageFile.ImageFile, "load", of(SyntaxError))),
    Fault("Pillow fears a bomb", fails(Image, "open", of(Image.DecompressionBombWarning))),
    Fault("torch: a convolution", fails(torch.nn.functional, "conv2d", of(RuntimeError))),
]
