"""Cuts parts out of a video so that every frame decodes to the same pixels, and the first one is at time 0.

A part that begins at a key frame and refers to nothing outside itself is copied as it is encoded. Another is decoded
and encoded again without loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType
from av.video.stream import VideoStream

from trainer.data.clips import find_clip, rows_to_frames
from trainer.data.locations import Clip
from trainer.data.video import index_frames, named, open_video
from trainer.errors import DatasetError

_LOSSLESS = ("yuv420p", "yuvj420p", "yuv422p", "yuv444p")
"""Pixel formats that x264 encodes as they are."""


@dataclass(frozen=True)
class Part:
    """The frames of ``clip``, to be written to ``target``."""

    target: Path
    clip: Clip


def cut(path: Path, parts: Sequence[Part]) -> None:
    """Write each part of the video ``path``.

    Raises ``DatasetError`` when the video hasn't the frames of one.
    """
    index = index_frames(path)
    rows = sum(part.clip.rows for part in parts)
    if rows * rows_to_frames(index, parts[0].clip.fps) > 2 * len(index.pts):
        raise DatasetError(
            f"{path}: {len(parts)} episodes with {rows:,} rows together are cut out of its {len(index.pts):,} frames.",
            "Download the dataset again: from_timestamp or length in meta/episodes must be wrong.",
        )
    for part in parts:
        found = find_clip(index, part.clip)
        wanted = index.pts[found.first : found.first + found.count]
        part.target.parent.mkdir(parents=True, exist_ok=True)
        with named(path):
            key, key_dts = index.keyframe(int(wanted[0]))
            if key != wanted[0] or not _copied(path, part.target, wanted, key_dts):
                _encode_again(path, part.target, wanted)


def _copied(path: Path, target: Path, wanted: np.ndarray, key_dts: int) -> bool:
    """Copy the packets of the frames ``wanted`` (pts, ascending from a key frame); False when they depend on others.

    They must follow one another in decoding order: a packet of another frame in between means that frames refer across
    the cut (an open group of pictures, or a cut within one that is coded out of order).
    """
    inside = {int(pts) for pts in wanted}
    run: list[Packet] = []
    with open_video(path) as source:
        stream = source.streams.video[0]
        source.seek(key_dts, backward=True, stream=stream)
        for packet in source.demux(stream):
            if not packet.size or packet.is_discard or packet.pts is None or packet.dts is None:
                continue
            if packet.pts in inside:
                run.append(packet)
                if len(run) == len(inside):
                    break
            elif run:
                return False
        if len(run) != len(inside) or run[0].pts != wanted[0]:
            return False
        with av.open(target, "w", options=_timescale(stream)) as output:
            copy = output.add_stream_from_template(stream, opaque=True)
            for packet in run:
                packet.pts, packet.dts = _after(packet.pts, wanted), _after(packet.dts, wanted)
                packet.stream = copy
                output.mux(packet)
    return True


def _encode_again(path: Path, target: Path, wanted: np.ndarray) -> None:
    """Decode the frames ``wanted`` and encode them without loss, colours as they were. Raises ``DatasetError``."""
    left = {int(pts) for pts in wanted}
    with open_video(path) as source:
        stream = source.streams.video[0]
        if stream.pix_fmt not in _LOSSLESS:
            raise DatasetError(
                f"{path}: {target.stem} does not begin at a key frame, and pixels of {stream.pix_fmt} can't be encoded "
                "again without loss.",
                f"Re-encode the video with a key frame there, or with `-pix_fmt {_LOSSLESS[0]}`.",
            )
        with av.open(target, "w", options=_timescale(stream)) as output:
            coded = output.add_stream("libx264", options={"qp": "0", "preset": "veryfast", "g": "30", "bf": "0"})
            context, given = coded.codec_context, stream.codec_context
            context.width, context.height, context.pix_fmt = stream.width, stream.height, stream.pix_fmt
            context.time_base = stream.time_base or Fraction(1, 1)
            context.framerate = stream.average_rate or Fraction(1, 1)
            for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
                setattr(context, name, getattr(given, name))
            for frame in source.decode(stream):
                if frame.pts not in left:
                    continue
                left.remove(frame.pts)
                frame.pts = _after(frame.pts, wanted)
                frame.pict_type = PictureType.NONE  # which frames are key frames is the encoder's choice
                output.mux(coded.encode(frame))
                if not left:
                    break
            output.mux(coded.encode())
    if left:
        raise DatasetError(f"{path}: {len(left)} frames of {target.stem} can't be decoded.", "Download it again.")


def _after(time: int | None, wanted: np.ndarray) -> int:
    return (time or 0) - int(wanted[0])


def _timescale(stream: VideoStream) -> dict[str, str]:
    """The time base of the source, so that no time is rounded."""
    base = stream.time_base
    return {"video_track_timescale": str(base.denominator)} if base is not None and base.numerator == 1 else {}
