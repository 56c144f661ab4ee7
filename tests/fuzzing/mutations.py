"""Files that are damaged or made to harm, from files that are right; the same for the same seed."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

Change = Callable[[bytes, random.Random], bytes]

EXTREMES = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**62, 2**63 - 1, -(2**63))
"""Numbers at which lengths and counts overflow."""

VALUES: tuple[Any, ...] = (
    *EXTREMES,
    None,
    True,
    False,
    0.5,
    -1e308,
    float("inf"),
    float("nan"),
    10**400,
    "",
    "x" * 5000,
    "../../../../etc/passwd",
    "\ud800",
    "nul\x00",
    "load",
    [],
    [[]],
    {},
    {"a": {"b": []}},
    [0] * 1000,
)
"""What may stand in a JSON file where something else is expected."""


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(max(1, len(data)))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_bits_at_an_end(data: bytes, rng: random.Random) -> bytes:
    """Where formats have their heads and feet."""
    size = min(len(data), 512)
    if rng.random() < 0.5:
        return flip_bits(data[:size], rng) + data[size:]
    return data[: len(data) - size] + flip_bits(data[len(data) - size :], rng)


def cut(data: bytes, rng: random.Random) -> bytes:
    end = rng.choice((0, 1, 7, 8, len(data) - 1, len(data) // 2, _place(data, rng)))
    return data[: max(0, end)]


def cut_from_the_start(data: bytes, rng: random.Random) -> bytes:
    return data[rng.choice((1, 8, _place(data, rng))) :]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    more = rng.choice((1, 8, 1000, 100_000))
    return data + rng.choice((bytes(more), rng.randbytes(more), data[:more]))


def repeat_a_part(data: bytes, rng: random.Random) -> bytes:
    start, size = _place(data, rng), rng.choice((1, 16, 256))
    return data[: start + size] + data[start:]


def leave_out_a_part(data: bytes, rng: random.Random) -> bytes:
    start, size = _place(data, rng), rng.choice((1, 4, 16, 256))
    return data[:start] + data[start + size :]


def overwrite_a_part(data: bytes, rng: random.Random) -> bytes:
    start, size = _place(data, rng), rng.choice((1, 2, 4, 8, 64, 1024))
    size = min(size, len(data) - start)
    filling = rng.choice((bytes(size), b"\xff" * size, b"\x80" * size, rng.randbytes(size)))
    return data[:start] + filling + data[start + size :]


def exchange_two_parts(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice((4, 16, 128))
    first, second = sorted((_place(data, rng), _place(data, rng)))
    if second - first < size:
        return data[second:] + data[:second]
    one, other = data[first : first + size], data[second : second + size]
    return data[:first] + other + data[first + size : second] + one + data[second + len(other) :]


def overflow_a_number(data: bytes, rng: random.Random) -> bytes:
    """An extreme number of 1 to 8 bytes, of either order, at the head, the foot or anywhere."""
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(EXTREMES) % (1 << (8 * size))
    start = rng.choice((0, 4, 8, 16, len(data) - 8, _place(data, rng)))
    start = max(0, min(start, len(data) - size))
    order = rng.choice(("little", "big"))
    return data[:start] + number.to_bytes(size, order) + data[start + size :]


def foreign_head(data: bytes, rng: random.Random) -> bytes:
    """The head of another format before the rest of this one."""
    heads = (b"\x80\x04\x95", b"PK\x03\x04", b"PAR1", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08\x00")
    heads = (*heads, b"GIF89a", b"\xff\xd8\xff\xe0", b"II*\x00", b"MM\x00*", b"%!PS-Adobe", b"RIFF")
    head = rng.choice((*heads, b"\xef\xbb\xbf", b"\xff\xfe", b"\x00" * 8, b"{", b"[" * 50_000))
    return head + data[rng.choice((0, len(head))) :]


DAMAGES: tuple[Change, ...] = (
    flip_bits,
    flip_bits_at_an_end,
    cut,
    cut_from_the_start,
    lengthen,
    repeat_a_part,
    leave_out_a_part,
    overwrite_a_part,
    exchange_two_parts,
    overflow_a_number,
    foreign_head,
)
"""What may happen to any file."""


# JSON --------------------------------------------------------------------------------------------


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += _places(inner)
    return found


def edit_json(text: str, rng: random.Random) -> str:
    """Replace, leave out or double entries; nest deeper than a parser may go."""
    value = json.loads(text)
    how = rng.randrange(9)
    if how == 0:
        return "[" * 200_000 + text
    places = _places(value) if isinstance(value, dict | list) else []
    if not places:
        return json.dumps(rng.choice(VALUES))
    container, key = rng.choice(places)
    if how == 1:
        deep = '{"a":' * 100_000 + "0" + "}" * 100_000
        container[key] = "@deep@"
        return json.dumps(value).replace('"@deep@"', deep, 1)
    if how == 2 and isinstance(container, dict):  # the same key a second time
        container["@twice@"] = rng.choice(VALUES)
        return json.dumps(value).replace('"@twice@"', json.dumps(key), 1)
    if how == 3:
        del container[key]
    elif how == 4:
        other, other_key = rng.choice(places)
        container[key] = json.loads(json.dumps(other[other_key]))
    elif how == 5 and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    elif how == 6 and isinstance(container[key], int):
        container[key] = container[key] * 10 ** rng.randrange(1, 12) + rng.randrange(-1, 2)
    else:
        container[key] = rng.choice(VALUES)
    return json.dumps(value)


def edited_json(data: bytes, rng: random.Random) -> bytes:
    return edit_json(data.decode(), rng).encode("utf-8", "surrogatepass")


# safetensors -------------------------------------------------------------------------------------


def edited_header(data: bytes, rng: random.Random) -> bytes:
    """The JSON header of a safetensors file, edited: names, shapes, dtypes, offsets, metadata."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size].decode(), data[8 + size :]
    for _ in range(rng.choice((1, 1, 1, 3))):
        header = _edit_safetensors(header, rng)
    encoded = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + body


def without_checksum(data: bytes) -> bytes:
    """A safetensors file as older versions of the package wrote it, which notices nothing."""
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    entries.get("__metadata__", {}).pop("crc32", None)
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _edit_safetensors(header: str, rng: random.Random) -> str:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        return header
    names = [name for name in entries if name != "__metadata__"]
    how = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 7, 7))
    if how < 2 or not names:
        return edit_json(header, rng)
    name = rng.choice(names)
    entry = entries[name]
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        return header
    if how == 2:  # another type of the same size, so that the rest fits
        entry["dtype"] = rng.choice(("F64", "I64", "U64", "F32", "I32", "U8", "BOOL", "F8_E4M3"))
    elif how == 3:
        entry["shape"] = [*entry["shape"], 1] if rng.random() < 0.5 else [1, *entry["shape"]]
    elif how == 4:  # no entries, of which there are many
        entry["shape"] = [0, rng.choice((2**31, 2**40, 2**62))]
        entry["data_offsets"] = [entry["data_offsets"][0]] * 2
    elif how == 5:
        entry["shape"] = list(reversed(entry["shape"]))
    elif how == 6:
        other = rng.choice(names)
        entries[name], entries[other] = entries[other], entries[name]
    else:
        words = entries.get("__metadata__", {})
        if not words:
            return header
        key = rng.choice(sorted(words))
        try:
            words[key] = edit_json(words[key], rng)
        except (ValueError, TypeError):
            words[key] = rng.choice(("", "auto", "full", "2", "-1", str(10**30), "\x00"))
    return json.dumps(entries)


def edited_tensors(data: bytes, rng: random.Random) -> bytes:
    """A file that is right, of other tensors: other values, shapes and types, some left out."""
    import torch
    from safetensors.torch import load, save

    tensors = load(data)
    (size,) = struct.unpack("<Q", data[:8])
    words = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    words.pop("crc32", None)
    names = sorted(tensors)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(names)
        tensor = tensors.get(name)
        if tensor is None:
            continue
        how = rng.randrange(9)
        if how == 0:
            del tensors[name]
        elif how == 1:
            kinds = (torch.uint8, torch.float16, torch.float64, torch.int64, torch.bool)
            tensors[name] = tensor.to(rng.choice((*kinds, torch.complex64, torch.bfloat16)))
        elif how == 2 and tensor.numel():
            flat = tensor.flatten()
            value = rng.choice((*EXTREMES, float("nan"), float("inf"), -0.5))
            if not tensor.is_floating_point() and not -(2**63) <= value < 2**63:  # NaN, too
                value = -1
            if tensor.dtype == torch.bool:
                flat = flat.view(torch.uint8)
                value = rng.choice((2, 255))
            elif not tensor.is_floating_point() and tensor.dtype != torch.int64:
                value = 1
            flat[rng.randrange(len(flat))] = value
            tensors[name] = flat.view(tensor.dtype).view(tensor.shape)
        elif how == 3:
            tensors[name] = tensor[:-1] if tensor.dim() and len(tensor) else tensor.unsqueeze(0)
        elif how == 4:
            tensors[name] = torch.cat([tensor, tensor]) if tensor.dim() else tensor.repeat(2)
        elif how == 5:
            tensors[name] = tensor.flatten() if tensor.dim() != 1 else tensor.unsqueeze(1)
        elif how == 6:
            tensors[name] = tensor.new_empty(0, rng.choice((0, 1, 2**20)))
        elif how == 7:
            tensors[rng.choice(("extra", "trajectory", "scatter", "0", name + ".x"))] = tensor
        else:
            tensors[name] = tensors.get(rng.choice(names), tensor)
    whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    return bytes(save(whole, words))


# Parquet -----------------------------------------------------------------------------------------


def edited_table(data: bytes, rng: random.Random) -> bytes:
    """A Parquet file that is right, of another table: other types, values, lists and words."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.choice((1, 1, 2))):
        table = _edit_table(table, rng, pa)
    file = io.BytesIO()
    pq.write_table(table, file, compression=rng.choice(("zstd", "none", "snappy")))
    return file.getvalue()


def _edit_table(table: Any, rng: random.Random, pa: Any) -> Any:
    number = rng.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    how = rng.randrange(9)
    if how == 0:
        return table.drop_columns([name]) if table.num_columns > 1 else table
    if how == 1:
        return table.set_column(number, name, pa.nulls(len(table), column.type))
    if how == 2:
        return table.set_column(number, name, pa.array(["x"] * len(table)))
    if how == 3 and pa.types.is_list(column.type):
        lists = column.to_pylist()
        row = rng.randrange(max(1, len(lists)))
        if not lists or lists[row] is None:
            return table
        value = rng.choice((0, 1, -1, 2**31 - 1, None))
        lists[row] = rng.choice((None, [], [value], [*lists[row], value], lists[row][:-1]))
        return table.set_column(number, name, pa.array(lists, column.type))
    if how == 4 and pa.types.is_int64(column.type):
        values = column.to_pylist()
        if values:
            values[rng.randrange(len(values))] = rng.choice((-1, 2**62, -(2**63), 10**9, None))
        return table.set_column(number, name, pa.array(values, pa.int64()))
    if how == 5:
        words = dict(table.schema.metadata or {})
        key = rng.choice(sorted(words)) if words else b"captum_deduce"
        try:
            words[key] = edit_json(words[key].decode(), rng).encode("utf-8", "surrogatepass")
        except (ValueError, KeyError):
            words.pop(key, None)
        return table.replace_schema_metadata(words)
    if how == 6:
        return pa.concat_tables([table] * rng.choice((2, 3)))
    if how == 7:
        return table.slice(0, rng.randrange(len(table) + 1))
    order = rng.sample(range(table.num_columns), table.num_columns)
    return table.select(order)


# Pictures ----------------------------------------------------------------------------------------


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], 8
    while start + 8 <= len(data):
        (size,) = struct.unpack(">I", data[start : start + 4])
        found.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + size]))
        start += 12 + size
    return found


def edited_chunks(data: bytes, rng: random.Random) -> bytes:
    """A PNG file with other chunks, whose checksums are right: sizes, kinds, bombs."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return overflow_a_number(data, rng)
    chunks = _chunks(data)
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    how = rng.randrange(7)
    if how == 0:  # a size, a depth and a kind of pixels
        width, height = rng.choice((0, 1, 9, 3000, 50_000, 2**31 - 1)), rng.choice((0, 1, 9, 3000))
        head = struct.pack(
            ">IIBBBBB",
            width,
            height,
            *(rng.choice((0, 1, 2, 3, 4, 6, 8, 16)),) * 2,
            0,
            0,
            rng.choice((0, 1)),
        )
        chunks[0] = (b"IHDR", head)
    elif how == 1:  # much from little
        side = rng.choice((3000, 6000, 12_000))
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        rows = zlib.compress(bytes((side + 1) * min(side, 2000)), 1)
        chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    elif how == 2:
        words = b"Comment\x00\x00" + zlib.compress(bytes(rng.choice((10**6, 10**7))), 1)
        chunks.insert(1, (rng.choice((b"zTXt", b"iCCP")), words))
    elif how == 3:
        chunks[number] = (kind, DAMAGES[rng.randrange(len(DAMAGES))](content, rng)[:100_000])
    elif how == 4:
        more = rng.choice((b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"gAMA", b"iTXt", b"sBIT"))
        chunks.insert(rng.randrange(1, len(chunks)), (more, rng.randbytes(rng.choice((0, 3, 26)))))
    elif how == 5:
        chunks.insert(number, chunks[rng.randrange(len(chunks))])
    else:
        del chunks[number]
    return data[:8] + b"".join(_chunk(kind, content) for kind, content in chunks)


# Archives ----------------------------------------------------------------------------------------


def edited_archive(data: bytes, rng: random.Random) -> bytes:
    """A tar archive with members that escape, point elsewhere, or are much larger than it is."""
    file = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=file, mode="w:gz") as new,
    ):
        members = [(member, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
        place = rng.randrange(len(members))
        member, content = members[place]
        how = rng.randrange(6)
        if how == 0:
            member.name = rng.choice(
                ("../../../x/y.png", "/x/y.png", "y.png", "a/b/c/d.png", "\x7f/.")
            )
        elif how == 1:
            kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
            member.type, member.linkname, content = rng.choice(kinds), "/dev/zero", b""
        elif how == 2:
            content = bytes(rng.choice((10**6, 10**8)))
        elif how == 3:
            content = mutate(content, "image", rng)[1]
        elif how == 4:
            members.append(members[place])
        else:
            del members[place]
        if how < 4:
            member.size = len(content)
            members[place] = (member, content)
        for member, content in members:
            new.addfile(member, io.BytesIO(content))
    return file.getvalue()


EDITS: dict[str, tuple[Change, ...]] = {
    "safetensors": (edited_header, edited_header, edited_tensors, edited_tensors),
    "json": (edited_json, edited_json, edited_json),
    "parquet": (edited_table, edited_table, edited_table),
    "image": (edited_chunks, edited_chunks),
    "archive": (edited_archive,),
    "other": (),
}
"""What only those make who know the format, which is right but for what is said in it."""


def mutate(data: bytes, form: str, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file, or edit it by its format.

    Args:
        data: the file.
        form: one of `EDITS`.
        rng: from which all is drawn.

    Returns:
        How it was changed, and what became of it.
    """
    edits = EDITS[form]
    if form == "safetensors" and rng.random() < 0.7:
        data = without_checksum(data)
    change = rng.choice(edits if edits and rng.random() < 0.5 else DAMAGES)
    try:
        return change.__name__, change(data, rng)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        # an earlier edit of the same file has left nothing that could be edited so
        return flip_bits.__name__, flip_bits(data, rng)
