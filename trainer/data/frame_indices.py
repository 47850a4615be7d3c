"""What is in the videos of a dataset, found out once for each file, by any number of threads."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

from trainer.data.clips import ClipIndex, find_clip
from trainer.data.locations import Clip, Video
from trainer.data.result_cache import ResultCache, version
from trainer.data.video import DECODER, FrameIndex, index_frames, open_video


class FrameIndices:
    """The frames of videos by where they lie. ``keep`` bounds how many files are kept, the last used ones."""

    def __init__(self, memory: ResultCache | None = None, keep: int | None = None) -> None:
        """``memory`` knows the videos that were looked at before."""
        self._keep = keep
        self._files: OrderedDict[Path, FrameIndex] = OrderedDict()
        self._clips: dict[Clip, ClipIndex] = {}
        self._begin(memory)

    def _begin(self, memory: ResultCache | None) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._busy: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def enter_process(self) -> None:
        """Continue in another process with the known indices: locks and the cache belong to one process."""
        self._begin(None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_keep", "_files", "_clips")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin(None)

    def of(self, video: Video) -> FrameIndex | ClipIndex:
        """The frames of a video. Raises ``DatasetError`` when it is no readable one, or has not got those of a clip."""
        if not isinstance(video, Clip):
            return self.file(video)
        if video not in self._clips:
            self._clips[video] = find_clip(self.file(video.path), video)
        return self._clips[video]

    def file(self, path: Path) -> FrameIndex:
        """All frames of a file."""
        with self._lock:
            if path in self._files:
                self._files.move_to_end(path)
                return self._files[path]
            busy = self._busy[path]
        with busy:
            with self._lock:
                if path in self._files:  # another thread has found out meanwhile
                    return self._files[path]
            found = remembered_index(path, self._memory)
            with self._lock:
                self._files[path] = found
                while self._keep is not None and len(self._files) > self._keep:
                    self._files.popitem(last=False)
                self._busy.pop(path, None)
        return found

    def forget(self, videos: set[Video]) -> None:
        """Drop what is known of ``videos``, and of files that no other clip is in."""
        self._clips = {clip: index for clip, index in self._clips.items() if clip not in videos}
        needed = {clip.path for clip in self._clips}
        dropped = {each.path if isinstance(each, Clip) else each for each in videos} - needed
        self._files = OrderedDict((path, index) for path, index in self._files.items() if path not in dropped)


def remembered_index(path: Path, memory: ResultCache | None) -> FrameIndex:
    """The frames of a video, from ``memory`` or else from its packets. Raises ``DatasetError``."""
    if memory is None:
        return index_frames(path)
    if not memory.knows(path):
        open_video(path).close()  # what is no video is refused before gigabytes of it are hashed
    key = f"index {DECODER} {version()} {memory.sha256(path)}"
    if kept := memory.get(key):
        with contextlib.suppress(ValueError):
            return FrameIndex.from_bytes(kept)
    index = index_frames(path)
    memory.put(key, index.to_bytes())
    return index
