"""Damage for the fuzz tests: of bytes, of text, and of what has a structure, written again so that it
gets past the first look at it. Everything comes from the `Random` that is handed in.
"""

import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from PIL import Image

MAGIC = b"INTRAM01"

# What parsers, number types and file systems have stumbled over.
WORDS: tuple[Any, ...] = (
    None, True, -1, 0, 1, 255, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", " ", "a", "A" * 5000, "\0", "é", "e\u0301", "\u202e", "../../etc/passwd", "/dev/zero", "%s%n", "nan",
    "0" * 64, "f" * 64, [], {}, [[]], [0] * 100, {"a": {"a": 1}},
)  # fmt: skip
LITERALS = (
    "1", "-1", "0", "0.0", "nan", "inf", "-inf", "1e400", "9223372036854775808", "9" * 4000, "9" * 9000,
    "0x" + "f" * 5000, "true", '""', '"a"', "'a'", '"\\u0000"', '"\\uD800"', '"' + "a" * 9000 + '"', "[]",
    "[[]]", "[1, 'a', {}]", "{}", "{a = 1}", "{a = 1, a = 2}", "1979-05-27T07:32:00Z", "07:32:00",
    "[" * 500, "{a=" * 500, "[" * 200 + "]" * 200, "'''a", '"""a', "{ name = 'x', nominal-patients = 1 }",
    '"/dev/zero"', '"../.."', '"18:00-06:00"', '["score-histogram"]', '["' + "0" * 64 + '"]', '"phantom"',
)  # fmt: skip


def flipped(data: bytes, chosen: Random) -> bytes:
    """`data` with one to four blind changes: bits, bytes, a piece cut out, doubled, moved or put in."""
    out = bytearray(data)
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(out) + 1)
        length = chosen.choice((1, 2, 4, 8, chosen.randrange(1, 200)))
        kind = chosen.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << chosen.randrange(8)
        elif kind == 1:
            out[at : at + length] = chosen.choice((b"\0", b"\xff", b"\x7f", b"\n")) * length
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length] * chosen.choice((1, 2, 50))
        elif kind == 4:
            out[at:at] = chosen.randbytes(length)
        else:
            del out[at:]
    return bytes(out)


def bent(tree: Any, chosen: Random) -> Any:
    """A JSON value with one node exchanged, left out, put in, made deep or of another type."""
    if isinstance(tree, dict | list) and tree and chosen.random() < 0.75:
        copy: Any = dict(tree) if isinstance(tree, dict) else list(tree)
        key = chosen.choice(list(copy)) if isinstance(copy, dict) else chosen.randrange(len(copy))
        if chosen.random() < 0.6:
            copy[key] = bent(copy[key], chosen)
        elif chosen.random() < 0.5:
            del copy[key]
        elif isinstance(copy, dict):
            copy[str(chosen.choice(WORDS))] = chosen.choice(WORDS)
        else:
            copy.insert(key, chosen.choice(WORDS))
        return copy
    if isinstance(tree, int) and chosen.random() < 0.4:
        return tree + chosen.choice((-1, 1, 2, 1000))
    if isinstance(tree, str) and tree and chosen.random() < 0.4:
        at = chosen.randrange(len(tree))
        return tree[:at] + chosen.choice(("", "a", "\0", "Z", "é")) + tree[at + 1 :]
    deep: Any = tree
    for _ in range(chosen.choice((1, 50, 3000)) if chosen.random() < 0.1 else 0):
        deep = [deep]
    return chosen.choice(WORDS) if deep is tree else deep


def json_text(tree: Any, chosen: Random) -> bytes:
    """`tree` as JSON, at times as JSON that says a thing twice, or not quite as JSON."""
    try:
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return b"[" * 100_000
    doubled = re.findall(r'"[^"]*":[^{}\[\],]*', text)
    kind = chosen.randrange(12)
    if kind == 0 and doubled and text.startswith("{"):
        text = "{" + chosen.choice(doubled) + "," + text[1:]
    elif kind == 1:
        text = " " * chosen.choice((1, 1000)) + text
    elif kind == 2:
        return flipped(text.encode("utf-8", "surrogatepass"), chosen)
    return text.encode("utf-8", "surrogatepass")


def bent_toml(text: str, chosen: Random) -> bytes:
    """A TOML document with lines exchanged, doubled, left out or with other values."""
    lines = text.splitlines()
    for _ in range(chosen.choice((1, 1, 2, 3))):
        at = chosen.randrange(len(lines))
        other = chosen.choice(lines)
        kind, literal = chosen.randrange(10), chosen.choice(LITERALS)
        if kind <= 3 and "=" in lines[at]:
            pairs = list(re.finditer(r"= *([^,{}\[\]=]+?)(?= *[,}\]]|$)", lines[at]))
            found = chosen.choice(pairs) if pairs else None
            start, end = found.span(1) if found else (lines[at].index("=") + 1, len(lines[at]))
            lines[at] = lines[at][:start] + literal + lines[at][end:]
        elif kind == 4:
            lines[at:at] = [other]
        elif kind == 5 and len(lines) > 1:
            del lines[at]
        elif kind == 6:
            name = chosen.choice(("a", "max-epsilon", "rounds", "'q.r'", '""', "é", "a.b.c", "-"))
            lines[at:at] = [f"{name} = {literal}"]
        elif kind == 7:
            lines[at:at] = [
                chosen.choice(("[a]", "[[a]]", "[limits]", "[privacy]", "[[hospitals]]", "["))
            ]
        elif kind == 8:
            lines[at:at] = [".".join("a" * chosen.choice((3, 500))) + " = 1"]
        else:
            lines[at] += chosen.choice(
                (" # \u202e", "\0", "\t", " #" * 500, "\r", "\x7f", "\ufeff")
            )
    whole = "\n".join(lines).encode()
    return flipped(whole, chosen) if chosen.random() < 0.15 else whole


def _tensors(section: bytes, chosen: Random) -> bytes:
    """A safetensors file whose header was bent, or some of whose values are."""
    (length,) = struct.unpack("<Q", section[:8])
    header, body = json.loads(section[8 : 8 + length]), bytearray(section[8 + length :])
    kind = chosen.randrange(6)
    if kind <= 1:
        header = bent(header, chosen)
    elif kind == 2 and header:
        fields = chosen.choice(list(header.values()))
        fields["dtype"] = chosen.choice(
            ("F64", "F16", "BF16", "I64", "BOOL", "U8", "C64", "F8_E4M3", "X", None)
        )
    elif kind == 3 and header:
        header["__metadata__"] = chosen.choice(({"a": "b"}, {"a": 1}, {"a": "b" * 50_000}, []))
    elif kind == 4 and body:
        values = np.frombuffer(body, "<f4", len(body) // 4).copy()
        some = chosen.sample(range(len(values)), min(len(values), chosen.choice((1, 10, 5000))))
        values[some] = chosen.choice((np.nan, np.inf, -np.inf, 1e38, 1e-45, 1e9, 30.0))
        body[: values.nbytes] = values.tobytes()
    else:
        body = bytearray(flipped(bytes(body), chosen))
    text = json_text(header, chosen)
    size = (
        len(text)
        if chosen.random() < 0.95
        else chosen.choice((0, len(text) + 1, 1 << 40, 2**64 - 1))
    )
    return struct.pack("<Q", size) + text + bytes(body)


def bent_weights(data: bytes, chosen: Random) -> bytes:
    """A safetensors file, damaged."""
    return flipped(data, chosen) if chosen.random() < 0.2 else _tensors(data, chosen)


def bent_frame(frame: bytes, chosen: Random) -> bytes:
    """A frame of common/messages.py, damaged: blindly, or its header, its protocol or its arrays."""
    kind = chosen.random()
    if kind < 0.15:
        return flipped(frame, chosen)
    (length,) = struct.unpack("<I", frame[8:12])
    text, section = frame[12 : 12 + length], frame[12 + length :]
    fields = json.loads(text)
    if kind < 0.3 and "protocol" in fields:
        fields["protocol"] = bent_toml(fields["protocol"], chosen).decode("utf-8", "replace")
        text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    elif kind < 0.65:
        text = json_text(bent(fields, chosen), chosen)
    else:
        section = _tensors(section, chosen)
    return MAGIC + struct.pack("<I", len(text)) + text + section


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bent_png(data: bytes, chosen: Random) -> bytes:
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = chosen.randrange(len(chunks))
    kind = chosen.randrange(7)
    if kind <= 2:  # absurd sizes, depths, colours and ways to interlace, with a right checksum
        head = bytearray(chunks[0][1])
        if chosen.random() < 0.5:
            side = chosen.choice((0, 1, 17, 5000, 65_535, 2**31 - 1, 2**32 - 1))
            struct.pack_into(">I", head, chosen.choice((0, 4)), side)
        else:
            head[chosen.randrange(8, 13)] = chosen.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (b"IHDR", bytes(head))
    elif kind == 3:
        chunks.insert(which, chosen.choice(chunks))
    elif kind == 4:
        del chunks[which]
    elif kind == 5:
        name = chosen.choice(
            (b"tEXt", b"zTXt", b"iCCP", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"eXIf", b"prVt")
        )
        bomb = b"a\0\0" + zlib.compress(bytes(chosen.choice((10, 20_000_000))))
        chunks.insert(which, (name, chosen.choice((bomb, b"", chosen.randbytes(40)))))
    else:
        raw = zlib.compress(bytes(chosen.choice((0, 100, 30_000_000))))
        chunks = [(b"IDAT", raw) if name == b"IDAT" else (name, body) for name, body in chunks]
    return data[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def _bent_jpeg(data: bytes, chosen: Random) -> bytes:
    starts = [
        m.start()
        for m in re.finditer(rb"\xff[\xc0-\xfe]", data)
        if data[m.start() + 1] not in range(0xD0, 0xD8)
    ]
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    which = chosen.randrange(1, len(pieces))
    kind = chosen.randrange(5)
    if kind == 0:
        pieces[which:which] = [pieces[which]] * chosen.choice((1, 40, 2000))
    elif kind == 1:
        del pieces[which]
    elif kind == 2:
        pieces[which] = flipped(pieces[which], chosen)
    elif kind == 3:
        pieces[1:1] = [
            b"\xff\xe1\x00\x08Exif\0\0",
            b"\xff\xe5\x00\x02" * chosen.choice((1, 200_000)),
        ]
    else:
        frames = [n for n, piece in enumerate(pieces) if piece[1] in (0xC0, 0xC1, 0xC2)]
        for n in frames:
            sides = [chosen.choice((0, 1, 16, 4999, 65_535)) for _ in range(2)]
            pieces[n] = pieces[n][:5] + struct.pack(">HH", *sides) + pieces[n][9:]
    return b"".join(pieces)


def _bent_tiff(data: bytes, chosen: Random) -> bytes:
    out = bytearray(data)
    (at,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[at : at + 2])
    for _ in range(chosen.choice((1, 1, 2))):
        entry = at + 2 + 12 * chosen.randrange(count)
        field = chosen.randrange(5)
        value = chosen.choice(
            (0, 1, 2, 3, 7, 16, 17, 255, 4999, 65_535, 2**31, 2**32 - 1, len(data) - 1)
        )
        if field == 0:
            struct.pack_into(
                "<H",
                out,
                entry,
                chosen.choice((256, 257, 258, 259, 273, 277, 279, 317, 322, 330, 339)),
            )
        elif field == 1:
            struct.pack_into("<H", out, entry + 2, chosen.randrange(20))
        elif field == 2:
            struct.pack_into("<I", out, entry + 4, value)
        else:
            struct.pack_into("<I", out, entry + 8, value)
    if chosen.random() < 0.1:  # the next image is this one, or somewhere
        struct.pack_into("<I", out, at + 2 + 12 * count, chosen.choice((at, 8, len(data) - 2)))
    return bytes(out)


def bent_image(data: bytes, chosen: Random) -> bytes:
    """An image file, damaged: blindly, or in the parts that its format has, or as two files in one."""
    kind = chosen.random()
    if kind < 0.2:
        return flipped(data, chosen)
    if kind < 0.25:
        return data + b"PK\x03\x04" + chosen.randbytes(50)
    forms: tuple[tuple[bytes, Callable[[bytes, Random], bytes]], ...] = (
        (b"\x89PNG", _bent_png),
        (b"\xff\xd8", _bent_jpeg),
        (b"II*\0", _bent_tiff),
    )
    for magic, bend in forms:
        if data.startswith(magic):
            return bend(data, chosen)
    return flipped(data, chosen)


def images() -> list[bytes]:
    """Small image files of every kind that Pillow writes and that a hospital might have."""
    grey = np.arange(24 * 20, dtype=np.uint16).reshape(20, 24)
    eight = Image.fromarray((grey % 256).astype(np.uint8))
    sixteen, colour = Image.fromarray(grey * 100), eight.convert("RGB")
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((one, "PNG", {}) for one in (eight, sixteen, colour, colour.quantize(8), eight.convert("LA"))),
        (eight.convert("1"), "PNG", {}),
        (eight, "PNG", {"save_all": True, "append_images": [eight, eight.rotate(90)]}),
        *((one, "JPEG", {"progressive": p}) for one in (eight, colour) for p in (False, True)),
        (colour.convert("CMYK"), "JPEG", {}),
        *((one, "TIFF", {"compression": c}) for one in (eight, sixteen, colour) for c in ("raw", "tiff_lzw")),
        *((eight, "TIFF", {"compression": c}) for c in ("jpeg", "tiff_adobe_deflate", "packbits")),
        (eight.convert("F"), "TIFF", {}),
        (eight, "TIFF", {"save_all": True, "append_images": [eight] * 3}),
        (eight, "GIF", {}),
        (eight, "BMP", {}),
    ]  # fmt: skip
    files = []
    for image, form, options in made:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return files
