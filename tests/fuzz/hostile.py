"""Datasets that want out of their folder, or more memory and time than there is. Each is a change of a good one."""

from __future__ import annotations

import json
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.so101_cases import Change, both, document, edited, text

FRONT = "observation.images.front"
TABLE, VIDEO = "data/chunk-000/episode_000000.parquet", f"videos/chunk-000/{FRONT}/episode_000000.mp4"


def info(**values: Any) -> Change:
    return document("info.json", lambda content: content.update(values))


def modality(kind: str, key: str, **values: Any) -> Change:
    return document("modality.json", lambda content: content[kind][key].update(values))


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    """``make`` something else in place of a file."""

    def apply(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        make(root / name)

    return apply


def outside(name: str) -> Change:
    """The file outside the folder, and a link to it inside."""

    def apply(root: Path) -> None:
        elsewhere = root.parent / "outside"
        elsewhere.mkdir(exist_ok=True)
        (root / name).rename(elsewhere / Path(name).name)
        (root / name).symlink_to(elsewhere / Path(name).name)

    return apply


def moved_out(template: str) -> Change:
    """The tables outside the folder, and a data_path that leads there."""

    def apply(root: Path) -> None:
        (root / "data").rename(root.parent / "elsewhere")
        info(data_path=template.format(root.parent))(root)

    return apply


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # its name may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def deep(brackets: str, depth: int = 200_000) -> str:
    return brackets[0] * depth + brackets[1] * depth


def rows(root: Path, count: int, **values: Any) -> None:
    """The first table with ``count`` rows that compress to nothing."""
    table = pq.read_table(root / TABLE)
    columns = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        one = values.get(name.replace(".", "__"), table.column(name)[0].as_py())
        columns[name] = pa.repeat(pa.scalar(one, kind), 1 << 16)
    part = pa.table(columns)
    with pq.ParquetWriter(root / TABLE, part.schema, compression="zstd") as writer:
        for _ in range(count >> 16):
            writer.write_table(part, row_group_size=1 << 16)


def long_text(root: Path) -> None:
    """An instruction of 16 MB in each of 65,536 rows, written once as the dictionary has it."""
    number = pa.array(np.zeros(1 << 16, np.int32))
    column = pa.DictionaryArray.from_arrays(number, pa.array(["x" * (16 << 20)]))
    table = pq.read_table(root / TABLE)
    repeated = {name: pa.repeat(table.column(name)[0], 1 << 16) for name in table.column_names}
    pq.write_table(pa.table({**repeated, "language": column}), root / TABLE, compression="zstd")
    document(
        "modality.json",
        lambda m: m["annotation"].update({"human.task_description": {"original_key": "language"}}),
    )(root)


def one_page(root: Path) -> None:
    """A page that unpacks to 0.8 GB."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(96_000_000, np.float64)), 6)
    table = pa.table({"observation.state": values, "action": values})
    pq.write_table(
        table, root / TABLE, compression="zstd", use_dictionary=False, data_page_size=1 << 31, row_group_size=1 << 30
    )


def nested_type(root: Path) -> None:
    """A column whose type is hundreds of lists deep."""
    kind: pa.DataType = pa.float32()
    value: Any = 0.0
    for _ in range(300):
        kind, value = pa.list_(kind), cast("Any", [value])
    table = pq.read_table(root / TABLE)
    column = pa.array([value] * table.num_rows, kind)
    index = table.column_names.index("action")
    pq.write_table(table.set_column(index, "action", column), root / TABLE)


def footer(length: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:-8] + struct.pack("<I", length) + b"PAR1"


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def boxes(content: bytes, path: list[bytes]) -> tuple[int, int]:
    """Where the box at ``path`` begins and ends."""
    begin, end = 0, len(content)
    for number, kind in enumerate(path):
        at = begin
        while content[at + 4 : at + 8] != kind:
            at += struct.unpack(">I", content[at : at + 4])[0]
        begin, end = at, at + struct.unpack(">I", content[at : at + 4])[0]
        if number < len(path) - 1:
            begin += 8 + {b"stsd": 8, b"dref": 8}.get(kind, 0)
    return begin, end


STBL = [b"moov", b"trak", b"mdia", b"minf", b"stbl"]


def samples(count: int) -> Callable[[bytes], bytes]:
    """An mp4 that announces ``count`` frames of one byte in one chunk, in the space of its tables."""

    def change(content: bytes) -> bytes:
        for kind, body in (
            (b"stsz", struct.pack(">III", 0, 1, count)),
            (b"stts", struct.pack(">IIII", 0, 1, count, 1)),
            (b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1)),
        ):
            begin, end = boxes(content, [*STBL, kind])
            new = box(kind, body)
            free = end - begin - len(new)
            assert free == 0 or free >= 8, (kind, free)
            content = (
                content[:begin]
                + new
                + (struct.pack(">I", free) + b"free" + bytes(free - 8) if free else b"")
                + content[end:]
            )
        return content

    return change


def elsewhere_media(content: bytes) -> bytes:
    """An mp4 whose frames are in another file, /etc/passwd."""
    begin, end = boxes(content, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref", b"url "])
    new = box(b"url ", struct.pack(">I", 0), b"file:///etc/passwd\0")
    return grown(content, begin, end, new, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"])


def grown(content: bytes, begin: int, end: int, new: bytes, around: list[bytes]) -> bytes:
    """``content`` with ``new`` in place of ``begin`` to ``end``, and the boxes ``around`` it as much longer."""
    more = len(new) - (end - begin)
    changed = bytearray(content)
    for depth in range(1, len(around) + 1):
        at, _ = boxes(content, around[:depth])
        changed[at : at + 4] = struct.pack(">I", struct.unpack(">I", content[at : at + 4])[0] + more)
    return bytes(changed[:begin]) + new + bytes(changed[end:])


def dimensions(width: int, height: int) -> Callable[[bytes], bytes]:
    """The size that the track announces."""

    def change(content: bytes) -> bytes:
        begin, _ = boxes(content, [*STBL, b"stsd", b"avc1"])
        return content[: begin + 32] + struct.pack(">HH", width, height) + content[begin + 36 :]

    return change


def large_picture(width: int, height: int) -> Change:
    """A video whose one frame is that large, all of one colour."""

    def apply(root: Path) -> None:
        with av.open(root / VIDEO, "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=30, options={"threads": "1"})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            container.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
            container.mux(stream.encode())

    return apply


def large_image(root: Path) -> None:
    """A PNG of 100,000 x 100,000 pixels, in a few kilobytes: the header says so, and hardly anything follows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1 << 20))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    from tests.support.so101_cases import columns, images_in_tables

    images_in_tables()(root)
    columns(**{f"{FRONT.replace('.', '__')}": [{"bytes": png, "path": "x.png"}] * 12})(root)


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '/etc/passwd'\n"
DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet
mimeType="video/mp4"><Representation id="1"><BaseURL>file:///etc/passwd</BaseURL></Representation></AdaptationSet>
</Period></MPD>"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"

HARMLESS: dict[str, Change] = {
    "frames said to be in another file": edited(VIDEO, elsewhere_media),
    "a track said to be of 65,535 x 65,535": edited(VIDEO, dimensions(65_535, 65_535)),
}
"""What looks like it and is not: the container's words are not followed, the frames are those of the file itself."""

HOSTILE: dict[str, tuple[Change, str]] = {
    # templates
    "data_path leaves the folder": (
        moved_out("../elsewhere/chunk-{{episode_chunk:03d}}/episode_{{episode_index:06d}}.parquet"),
        "data_path",
    ),
    "data_path is absolute": (
        moved_out("{}/elsewhere/chunk-{{episode_chunk:03d}}/episode_{{episode_index:06d}}.parquet"),
        "data_path",
    ),
    "video_path leaves the folder": (info(video_path="videos/../../../{video_key}/{episode_index}.mp4"), "video_path"),
    "a camera's name leaves the folder": (
        both(
            modality("video", "front", original_key="../../../outside"),
            document("info.json", lambda i: i["features"].update({"../../../outside": i["features"][FRONT]})),
        ),
        "outside",
    ),
    "an attribute in a template": (info(data_path="data/{episode_index.__class__}.parquet"), "data_path"),
    "an index in a template": (info(data_path="data/{video_key[0]}{episode_index}.parquet"), "data_path"),
    "a conversion in a template": (info(data_path="data/{episode_index!r:>9}.parquet"), "data_path"),
    "a huge width in a template": (info(data_path="data/{episode_index:>999999999}.parquet"), "data_path"),
    "a width that fits an int32": (info(data_path="data/{episode_index:02147483647d}.parquet"), "data_path"),
    "a huge precision in a template": (info(data_path="data/{episode_index:.999999999f}.parquet"), "data_path"),
    "a huge text in a template": (info(video_path="videos/{video_key:>2000000000}.mp4"), "video_path"),
    "a width from another field": (info(data_path="data/{episode_index:{episode_index}}.parquet"), "data_path"),
    "a zero byte in a template": (info(data_path="data/\0{episode_index}.parquet"), "data_path"),
    "a template without end": (info(data_path="data/" + "a" * 1_000_000 + "{episode_index}.parquet"), "data_path"),
    "a template of many fields": (info(data_path="data/" + "{episode_index:099d}" * 10_000 + ".parquet"), "data_path"),
    "all episodes in one table": (info(data_path=TABLE), r"data_path|episode_000000\.parquet"),
    # metadata
    "info.json is deep": (text("meta/info.json", deep("[]")), r"info\.json: not JSON"),
    "info.json is deep in an entry": (
        edited("meta/info.json", lambda c: c[:-1] + b', "x": ' + deep("[]").encode() + b"}"),
        r"info\.json",
    ),
    "modality.json is deep": (text("meta/modality.json", '{"state":' + deep("[]") + "}"), r"modality\.json"),
    "objects are deep": (text("meta/modality.json", '{"a":' * 200_000 + "1" + "}" * 200_000), r"modality\.json"),
    "a line is deep": (text("meta/episodes.jsonl", deep("[]") + "\n"), r"episodes\.jsonl"),
    "stats.json is deep": (text("meta/stats.json", deep("[]")), r"stats\.json"),
    "info.json is huge": (replaced("meta/info.json", sparse(4 << 30)), r"info\.json"),
    "modality.json is huge": (replaced("meta/modality.json", sparse(4 << 30)), r"modality\.json"),
    "episodes.jsonl is huge": (replaced("meta/episodes.jsonl", sparse(4 << 30)), r"episodes\.jsonl"),
    "tasks.jsonl is huge": (replaced("meta/tasks.jsonl", sparse(4 << 30)), r"tasks\.jsonl"),
    "stats.json is huge": (replaced("meta/stats.json", sparse(4 << 30)), r"stats\.json"),
    "empty lists without end": (text("meta/info.json", lambda: "[" + "[]," * 6_000_000 + "[]]"), r"info\.json"),
    "a list without end in a line": (
        text("meta/episodes.jsonl", lambda: '{"episode_index":0,"length":12,"tasks":[' + "[]," * 6_000_000 + "[]]}\n"),
        r"episodes\.jsonl",
    ),
    "episodes without end": (
        text("meta/episodes.jsonl", lambda: "".join(f'{{"episode_index":{e},"length":12}}\n' for e in range(600_000))),
        r"episodes\.jsonl",
    ),
    "tasks without end": (
        text("meta/tasks.jsonl", lambda: "".join(f'{{"task_index":{e},"task":"{e}"}}\n' for e in range(600_000))),
        r"tasks\.jsonl",
    ),
    "keys without end": (
        document(
            "modality.json", lambda m: m["state"].update({f"k{k}": {"start": 0, "end": 1} for k in range(200_000)})
        ),
        r"modality\.json",
    ),
    "a number of a million digits": (
        edited("meta/info.json", lambda c: c.replace(b'"fps": 30', b'"fps": ' + b"9" * 1_000_000, 1)),
        r"info\.json",
    ),
    "a shape without end": (
        document("info.json", lambda i: i["features"]["action"].update(shape=[2**62] * 100_000)),
        r"info\.json",
    ),
    "a slice without end": (modality("action", "gripper", start=5, end=10**12), r"modality\.json|gripper"),
    "a slice of nothing known": (
        both(
            modality("action", "gripper", start=5, end=10**10),
            document("info.json", lambda i: i["features"]["action"].pop("shape")),
        ),
        r"modality\.json|gripper",
    ),
    "an episode without end": (
        text("meta/episodes.jsonl", '{"episode_index":0,"length":4611686018427387904}\n'),
        r"episodes\.jsonl|rows",
    ),
    "an episode of another world": (
        text("meta/episodes.jsonl", '{"episode_index":4611686018427387904,"length":12}\n'),
        r"episodes\.jsonl|episode_4611686018427387904|missing",
    ),
    "statistics without end": (
        text(
            "meta/stats.json",
            lambda: json.dumps({"action": {name: [0.5] * 1_000_000 for name in ("min", "max", "mean", "std")}}),
        ),
        r"stats\.json",
    ),
    "a resolution without end": (
        document("info.json", lambda i: i["features"][FRONT].update(shape=[2**40, 2**40, 3])),
        r"info\.json|pixels",
    ),
    # special files
    **{
        f"a pipe in place of {Path(name).name}": (replaced(name, os.mkfifo), Path(name).name.replace(".", r"\."))
        for name in (
            "meta/info.json",
            "meta/modality.json",
            "meta/episodes.jsonl",
            "meta/tasks.jsonl",
            "meta/stats.json",
            TABLE,
            VIDEO,
        )
    },
    **{
        f"a folder in place of {Path(name).name}": (replaced(name, Path.mkdir), Path(name).name.replace(".", r"\."))
        for name in ("meta/info.json", "meta/modality.json", "meta/episodes.jsonl", "meta/stats.json", TABLE, VIDEO)
    },
    "a socket in place of a table": (replaced(TABLE, a_socket), r"episode_000000\.parquet"),
    "a device in place of a table": (
        replaced(TABLE, lambda path: path.symlink_to("/dev/zero")),
        r"episode_000000\.parquet",
    ),
    "a device in place of info.json": (
        replaced("meta/info.json", lambda path: path.symlink_to("/dev/zero")),
        r"info\.json",
    ),
    "a link out of the folder for info.json": (outside("meta/info.json"), r"info\.json"),
    "a link out of the folder for tasks.jsonl": (
        replaced("meta/tasks.jsonl", lambda p: p.symlink_to("/etc/passwd")),
        r"tasks\.jsonl",
    ),
    "a link out of the folder for a table": (outside(TABLE), r"episode_000000\.parquet"),
    "a link out of the folder for a video": (outside(VIDEO), r"episode_000000\.mp4"),
    "a link out of the folder for all tables": (outside("data"), "data"),
    "a link to itself": (replaced("meta/tasks.jsonl", lambda p: p.symlink_to(p)), r"tasks\.jsonl"),
    # tables
    "a table of four million rows": (lambda root: rows(root, 1 << 22), r"episode_000000\.parquet"),
    "a table of four million rows that are announced": (
        both(
            lambda root: rows(root, 1 << 22),
            text("meta/episodes.jsonl", f'{{"episode_index":0,"length":{1 << 22}}}\n'),
        ),
        r"episode_000000\.parquet",
    ),
    "an instruction without end": (
        both(long_text, text("meta/episodes.jsonl", f'{{"episode_index":0,"length":{1 << 16}}}\n')),
        r"episode_000000\.parquet",
    ),
    "pages that unpack to gigabytes": (one_page, r"episode_000000\.parquet"),
    "a type without end": (nested_type, r"episode_000000\.parquet"),
    "a footer longer than the file": (edited(TABLE, footer(2**31 - 1)), r"episode_000000\.parquet"),
    "a footer of nonsense": (edited(TABLE, lambda c: c[:-200] + os.urandom(192) + c[-8:]), r"episode_000000\.parquet"),
    "images of 100,000 x 100,000": (large_image, r"episode_000000\.parquet"),
    # media
    "a list of other files (HLS)": (text(VIDEO, HLS), r"episode_000000\.mp4"),
    "a list of other files (concat)": (text(VIDEO, CONCAT), r"episode_000000\.mp4"),
    "a list of other files (DASH)": (text(VIDEO, DASH), r"episode_000000\.mp4"),
    "a session of another machine (SDP)": (text(VIDEO, SDP), r"episode_000000\.mp4"),
    "two hundred million frames": (edited(VIDEO, samples(170_000_000)), r"episode_000000\.mp4"),
    "four billion frames": (edited(VIDEO, samples(2**32 - 1)), r"episode_000000\.mp4"),
    "a picture of 16,000 x 12,000": (large_picture(16_000, 12_000), r"episode_000000\.mp4"),
    "a video of zeros": (replaced(VIDEO, sparse(1 << 40)), r"episode_000000\.mp4"),
}
