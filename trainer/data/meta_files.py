"""Reads the JSON files of a dataset's ``meta/``: text, documents, lines, and what counts as a number in them."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from trainer.data.paths import require_file
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

Document = TypeVar("Document", bound=BaseModel)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
AGAIN = "Download the dataset again."
AGAIN_V3 = "Download the dataset again, or take its v2.1 revision where it has one (OWNER/NAME@v2.1)."
DOCUMENT_BYTES = 4 << 20
LINES_BYTES = 64 << 20
LINE_BYTES = 1 << 20
LINES = 500_000
"""The most that a document, a file of lines and a line of it may have. Parsed, it may take twenty times that."""
_LARGEST = 1 << 53
"""Beyond it not every whole number is one in JavaScript's JSON, and nothing here is counted so far."""


def _number(value: object) -> object:
    """JSON numbers only: text and booleans are not read as numbers, NaN and infinity are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{_shown(value)} is not a number")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("the number is too large")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number")
    return value


def _whole(value: object) -> object:
    """A whole number, also where a program wrote it as 30.0."""
    number = _number(value)
    if isinstance(number, float):
        if not number.is_integer():
            raise ValueError(f"{number} is not a whole number")
        return _number(int(number))
    return number


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]


def is_lfs_pointer(file: Path) -> bool:
    """Whether ``file`` is git-lfs's placeholder instead of the data. Raises ``DatasetError`` where it is no file."""
    require_file(file)
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


@contextmanager
def opened(file: Path, most: int, missing: str = AGAIN) -> Generator[BinaryIO]:
    """A metadata file of at most ``most`` bytes, open for reading. Raises ``DatasetError``, also for what goes wrong
    meanwhile: when it is absent, no file, too large, unreadable or a git-lfs pointer. ``missing`` is the first's cure.
    """
    try:
        if is_lfs_pointer(file):
            raise DatasetError(f"{file}: a git-lfs pointer, not the data.", "Run `git lfs pull` in the dataset.")
        if (size := file.stat().st_size) > most:
            raise DatasetError(f"{file}: {size:,} bytes; at most {most >> 20} MiB can be meant.", AGAIN)
        with file.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing.", missing) from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise DatasetError(f"{file}: can't be read ({error.strerror or error}).", AGAIN) from error


def read_text(file: Path, missing: str = AGAIN) -> str:
    """The text of a metadata file, without the byte order mark some editors put first.

    Raises ``DatasetError`` as ``opened`` does.
    """
    with opened(file, DOCUMENT_BYTES, missing) as stream:
        return stream.read(DOCUMENT_BYTES).decode("utf-8-sig")


def read_json(file: Path, missing: str = AGAIN, cure: str = "Correct that line, or download the file again.") -> Any:
    """The JSON document in ``file``. Raises ``DatasetError``; ``cure`` is that of broken JSON."""
    try:
        return json.loads(read_text(file, missing))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not JSON ({_reason(error)}).", cure) from error


def read_document(file: Path, model: type[Document], missing: str = AGAIN) -> Document:
    """The JSON document in ``file`` as ``model``. Raises ``DatasetError`` that names the first wrong key."""
    return validated(read_json(file, missing), model, file)


def validated(document: Any, model: type[Document], file: Path) -> Document:
    """The JSON ``document`` that stands in ``file`` as ``model``. Raises ``DatasetError`` for the first wrong key."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise DatasetError(f"{file}: {first_problem(error, model)}.", "Correct that entry.") from error


def read_lines(file: Path, model: type[Document]) -> Iterator[Document]:
    r"""The lines of a JSON-lines file, each as ``model``; blank ones, which editors leave behind, are skipped.

    Only ``\n`` ends a line: LeRobot writes U+2028 and its like, which ``str.splitlines`` splits at, unescaped. Raises
    ``DatasetError`` that names the line.
    """
    with opened(file, LINES_BYTES) as stream:
        for number in range(1, LINES + 2):
            content = stream.readline(LINE_BYTES + 1)
            if not content:
                return
            if len(content) > LINE_BYTES or number > LINES:
                what = "the line is" if number <= LINES else f"more than {LINES:,} lines are"
                raise DatasetError(f"{file}, line {number}: {what} more than can be meant.", AGAIN)
            line = content.decode("utf-8-sig" if number == 1 else "utf-8")
            if line.strip():
                yield _parsed(line, model, f"{file}, line {number}")


def _parsed(line: str, model: type[Document], where: str) -> Document:
    try:
        return model.model_validate(json.loads(line))
    except ValidationError as error:  # a ValueError as well
        raise DatasetError(f"{where}: {first_problem(error, model)}.", "Correct that line.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{where}: not JSON ({_reason(error)}): {line[:80]!r}.",
            "Correct or remove that line; one JSON object per line.",
        ) from error


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
