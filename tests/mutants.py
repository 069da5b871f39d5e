"""Damaged and hostile versions of files: what is in them changed as JSON, YAML, CSV or safetensors have it, and bytes.

All of it is drawn from a seed, so that a mutant that was found can be made again.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

MiB = 2**20
WILD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, 10**30, 10**400, 0.5, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), float("-inf"), "", " ", "0", "1", "nan", "inf", "1e999", "=1+1", "@x", "-", "..", "../x", "/", "a/b",
    "\0", "a\x1b[31mb", "a\r\nb", "a\nb", "\u202e", "\ud800", "é", "<script>", "'", '"', "%s{}", "9" * 500,
    "x" * 5000, [], {}, [[]], [1, 2], ["a", "a"], {"a": 1}, [None], {"": None}, "fold", "tensor", "dict",
)  # fmt: skip
WORDS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b",", b";", b"{", b"}", b"[", b"]", b":", b"null",
    b"NaN", b"Infinity", b"-1", b"1e999", b"&a ", b"*a", b"!!python/object:x ", b"<<: ", b"\\ud800", b"\x1b[2J",
    b"9" * 400, b"[" * 3000, b"\t", b"=", b"#", b"---\n", b"\x85", b"\xe2\x80\xa8",
)  # fmt: skip


def bytes_changed(data: bytes, random: random.Random) -> bytes:
    """A file with a few bytes or words put in, left out, repeated, or turned."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(changed) + 1)
        length = random.choice((1, 1, 4, 8, 40, len(changed) // 2))
        how = random.randrange(6)
        if how == 0:
            changed[at : at + length] = random.randbytes(min(length, 64))
        elif how == 1:
            del changed[at : at + length]
        elif how == 2:
            changed[at:at] = random.choice(WORDS)
        elif how == 3:
            changed[at:at] = changed[at : at + length] * random.choice((1, 2, 10))
        elif how == 4 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        else:
            del changed[at:]
    return bytes(changed)


def value_changed(tree: Any, random: random.Random) -> Any:
    """A tree of JSON in which one value is another, one of a kind it had not, gone, doubled, or under another name."""
    tree = json.loads(json.dumps(tree))
    places = list(_places(tree))
    if not places:
        return random.choice(WILD)
    parent, key = random.choice(places)
    how = random.randrange(8)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[str(random.choice(WILD))] = parent.pop(key)
    elif how == 2 and isinstance(parent, list):
        parent.extend([parent[key]] * random.choice((1, 3, 2000)))
    elif how == 3:
        other, name = random.choice(places)
        parent[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
    elif how == 4:
        nested: Any = parent[key]
        for _ in range(random.choice((1, 60, 3000))):
            nested = [nested]
        parent[key] = nested
    else:
        parent[key] = random.choice(WILD)
    return tree


def _keys(parent: Any) -> Any:
    return parent if isinstance(parent, dict) else range(len(parent))


def _places(tree: Any) -> Any:
    for key in list(_keys(tree)) if isinstance(tree, dict | list) else ():
        yield tree, key
        yield from _places(tree[key])


def dumped(tree: Any) -> bytes:
    """JSON of a tree, however deep it is, with NaN and lone surrogates."""
    depth, inner = 0, tree
    while isinstance(inner, list) and len(inner) == 1 and depth < 10_000:
        depth, inner = depth + 1, inner[0]
    try:
        return json.dumps(tree).encode()
    except RecursionError:
        return b"[" * 3000 + b"]" * 3000


def json_changed(data: bytes, random: random.Random) -> bytes:
    """A file of JSON with one to three values changed."""
    tree = json.loads(data)
    for _ in range(random.choice((1, 1, 3))):
        try:
            tree = value_changed(tree, random)
        except RecursionError:
            break
    return dumped(tree)


def csv_changed(data: bytes, random: random.Random) -> bytes:
    """A CSV with cells, rows and columns changed, doubled or gone, or in another encoding."""
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    for _ in range(random.choice((1, 1, 3))):
        if not rows:
            break
        row = random.choice(rows) if random.random() < 0.7 else rows[0]
        how = random.randrange(7)
        if how == 0 and row:
            row[random.randrange(len(row))] = str(random.choice(WILD))
        elif how == 1:
            rows.insert(random.randrange(len(rows) + 1), list(row))
        elif how == 2:
            rows.remove(row)
        elif how == 3 and row:
            del row[random.randrange(len(row))]
        elif how == 4:
            row.append(str(random.choice(WILD)))
        elif how == 5:
            at = random.randrange(len(rows[0]) + 1)
            for place, each in enumerate(rows):
                each.insert(min(at, len(each)), str(random.choice(WILD)) if place else random.choice(rows[0] or [""]))
        elif row:
            row[random.randrange(len(row))] = random.choice(random.choice(rows) or [""])
    out = io.StringIO()
    csv.writer(out, lineterminator=random.choice(("\n", "\r\n", "\r"))).writerows(rows)
    return out.getvalue().encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")


def safetensors_changed(data: bytes, random: random.Random) -> bytes:
    """A file of safetensors with its header changed: names, types, shapes and places of tensors, text beside them."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if random.random() < 0.3 and "__metadata__" in header:
        for name, text in header["__metadata__"].items():
            header["__metadata__"][name] = json_changed(text.encode(), random).decode("utf-8", "replace")
    else:
        for _ in range(random.choice((1, 1, 4))):
            names = [name for name in header if isinstance(header[name], dict) and "shape" in header[name]]
            if names and random.random() < 0.7:
                part = header[random.choice(names)]
                wild = ("F64", "F16", "BF16", "F8_E4M3", "F4", "C64", "I8", "BOOL", "U64", "X")
                how = random.randrange(4)
                if how == 0:
                    part["dtype"] = random.choice(wild)
                elif how == 1 and part["shape"]:
                    part["shape"] = random.sample(part["shape"], len(part["shape"]))
                elif how == 2:
                    part["shape"] = random.choice(([], [0], [0, 2**62], [2**40, 2**40], [-1], [10**12], [1] * 70))
                else:
                    part["data_offsets"] = random.choice(([0, 0], [0, len(rest)], [8, 4], [0, 2**63], [2**64, 2**65]))
            else:
                try:
                    header = value_changed(header, random)
                except RecursionError:
                    break
            if not isinstance(header, dict):
                break
    text = dumped(header)
    size = len(text) if random.random() < 0.9 else random.choice((0, 1, 2**30, 2**63, len(text) + 1))
    return size.to_bytes(8, "little") + text + rest


Mutator = Callable[[bytes, random.Random], bytes]


def mutants(data: bytes, ways: Sequence[Mutator], count: int, seed: int) -> Any:
    """So many mutants of a file, each with its number, made in these ways by turns."""
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        yield number, ways[number % len(ways)](data, chance)
