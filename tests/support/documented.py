"""Commands as pages, settings and messages name them: ``pippa`` and ``trainer``, made ready for the real parser, and
``docker compose``.

What stands for something else is put in its place:

- words in capitals (``RUN``, ``NAME``, ``N``), ``<run id>``, ``$VARIABLE`` and ``{expression}`` become ``1``, which can
  be a name, a path or a number; where a preset belongs they become ``smoke``, and where a data config does, or a file
  with one, a data config; ``SUBSTITUTES`` has the exceptions
- ``…`` after a flag is its value, after ``pippa train`` the preset; elsewhere it means "and more", and goes, as
  ``[--flag …]`` does
- other brackets, ``[--delete]``, say that something may be left out; here it stays in

A command that is only named, ``pippa data check`` in a sentence, must exist; one with arguments must parse. What
follows a service in ``docker compose run SERVICE …`` is read with the service's own words before it. ``python -m
trainer.finetune …`` is ``trainer finetune …``.
"""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.cli import COMMANDS
from trainer.cli import USAGE

Words = tuple[str, ...]

ROOT = Path(__file__).resolve().parents[2]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
COMPOSE_VERBS = "build config down exec kill logs ls ps pull restart rm run start stop top up version wait".split()
PROGRAMS = {
    "pippa": {command.words.split()[0] for command in COMMANDS},
    "trainer": set(re.findall(r"^  ([a-z-]+) ", USAGE, re.MULTILINE)),
}
MODULES = {"flows.cli": "pippa", "trainer.cli": "trainer"} | {
    f"trainer.{command}": f"trainer {command}" for command in ("finetune", "evaluate", "serve")
}
"""What ``python -m MODULE`` runs."""
NAMES = {
    *(("pippa", *command.words.split()) for command in COMMANDS),
    *(("pippa", command.words.split()[0]) for command in COMMANDS),
    *(("trainer", word) for word in PROGRAMS["trainer"]),
}
SUBSTITUTES = {"{launchers}": "docker", "{engines}": "native", "{_KINDS[kind]}": "dataset", "$FLAGS": ""}
TAKE_PRESETS = {
    ("pippa", "train"),
    ("pippa", "sweep"),
    ("trainer", "run"),
    ("pippa", "presets", "show"),
    ("pippa", "doctor"),
    ("trainer", "doctor"),
    ("pippa", "presets", "compare"),
}

_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_ARRAY = re.compile(r"\[(?:entrypoint, |\"CMD\", )?(\"?(?:pippa|trainer)\"?(?:, [^\]]+)?)\]")
_BLOCK_LIST = re.compile(r"^( *)- \"?(pippa|trainer)\"? *((?:\n\1- .+)+)", re.MULTILINE)
_IN_PROSE = re.compile(
    r"(?<![\w./`-])((?:"
    + "|".join(rf"{name} (?:{'|'.join(words)})" for name, words in PROGRAMS.items())
    + rf"|docker compose (?:--profile \S+ )?(?:{'|'.join(COMPOSE_VERBS)}))\b.*)"
)
_STANDS_FOR = re.compile(r"[A-Z][A-Z_]*|\$\{?\w+\}?|\{.+\}")
_BEFORE = re.compile(r"[-$!]|exec|if|then|do|sudo|nice|uv|run:?|RUN|CMD|\w+=.*|--[\w-]+")
"""What may stand before a program where it is called, if its first word is not one that the program knows."""


@dataclass(frozen=True)
class Named:
    """A command as it is written somewhere."""

    where: str
    words: Words

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def in_markdown(text: str, where: str) -> Iterator[Named]:
    """Those in code blocks, code spans and sentences of a page."""
    for block in _FENCE.findall(text):
        lines = "\n".join(block.splitlines()[1:-1])
        if block.lstrip().startswith("```text"):  # what is printed, or a picture
            yield from _in_text(lines, where)
            continue
        yield from _in_shell(lines, where, complete=True)
        yield from _in_arrays(block, where)
    yield from _in_text(_FENCE.sub("", text), where)


def in_python(source: str, where: str) -> Iterator[Named]:
    """Those in docstrings, messages and comments of a module."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from _in_text("".join(map(_literal, node.values)), f"{where}:{node.lineno}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield from _in_text(node.value, f"{where}:{node.lineno}")
        elif isinstance(node, ast.List | ast.Tuple):
            yield from _in_argv([_argument(each) for each in node.elts], f"{where}:{node.lineno}")
    yield from _in_comments(_python_comments(source), where)


def in_settings(text: str, where: str) -> Iterator[Named]:
    """Those in a file with ``#`` comments: YAML, a Dockerfile, a shell script, ``.env.example``."""
    lines = [line.strip() for line in text.splitlines()]
    yield from _in_comments([line[1:] if line.startswith("#") else None for line in lines], where)
    for line in lines:
        if not line.startswith("#"):
            yield from _in_text(line.partition(" # ")[2], where)
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    yield from _in_arrays(code, where)
    yield from _in_shell(code, where, complete=True)


def in_file(file: Path) -> list[Named]:
    """Those in ``file``, whatever it is."""
    readers = {".md": in_markdown, ".py": in_python, ".html": in_template, ".toml": in_toml}
    read = readers.get(file.suffix, in_settings)
    return list(read(file.read_text(), str(file.relative_to(ROOT))))


def in_toml(text: str, where: str) -> Iterator[Named]:
    """Those in the comments of a TOML file."""
    lines = [line.strip() for line in text.splitlines()]
    return _in_comments([line[1:] if line.startswith("#") else None for line in lines], where)


def in_template(text: str, where: str) -> Iterator[Named]:
    """Those in a Jinja template: its text, and the strings that it puts together with ``~``."""
    shown = re.sub(r"""(["']) ~ [^"'~]+ ~ \1""", "1", text)
    return _in_text(re.sub(r"""["'] ~ \w|<""", "\n", shown), where)


def called(words: Sequence[str]) -> list[str]:
    """``words`` from the program on; none where they call no program of ours."""
    for number, word in enumerate(words):
        if word in PROGRAMS or word == "docker":
            known = words[number + 1 :] and words[number + 1] in PROGRAMS.get(word, ())
            if known or all(map(_BEFORE.fullmatch, words[:number])):
                return list(words[number:])
    return []


def compose_services(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb of a ``docker compose`` command and the services it names."""
    rest = re.sub(r"--(?:policy|profile|status) \S+", "", " ".join(words[2:])).split()
    verb, *services = [word for word in rest if re.fullmatch(r"[a-z][\w-]*", word)]
    return verb, services[:1] if verb in ("run", "exec") else services


def _in_text(text: str, where: str) -> Iterator[Named]:
    """Code spans, and what a sentence or an indented line names without marking it."""
    for span in _SPAN.findall(text):
        yield from _in_shell(" ".join(span[1].split()), where, complete=False)
    rest = re.sub(r"\[/?[a-z]*\]", "\n", _SPAN.sub("\n", text))
    yield from _in_arrays(rest, where)
    for line in rest.splitlines():
        for named in _IN_PROSE.findall(line):
            # A sentence ends it, and so does the gap before what explains it.
            call = re.split(r"  |[,.;:)](?:\s|$)|[\"“”|]", named)[0]
            yield from _in_shell(call, where, complete=False)


def _in_comments(lines: Iterable[str | None], where: str) -> Iterator[Named]:
    """Comment lines, None between two comments."""
    block: list[str] = []
    for line in [*lines, None]:
        if line is not None:
            block.append(line)
        elif block:
            yield from _in_text("\n".join(block), where)
            block = []


def _python_comments(source: str) -> Iterator[str | None]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")
        elif token.type not in (tokenize.NL, tokenize.NEWLINE):
            yield None


def _literal(part: ast.expr) -> str:
    """A part of an f-string as it reads when it is shown."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    text = ast.unparse(part.value if isinstance(part, ast.FormattedValue) else part)
    return f"{{{text}}}" if text in {name.strip("{}") for name in SUBSTITUTES} else "{1}"


def _in_arrays(text: str, where: str) -> Iterator[Named]:
    """``[trainer, run, overfit-demo]``, as YAML and Dockerfiles have it."""
    for found in _ARRAY.findall(text):
        yield from _named(yaml.safe_load(f"[{found}]"), where, complete=True)
    for _, program, rest in _BLOCK_LIST.findall(text):
        yield from _named([program, *map(str, yaml.safe_load(rest))], where, complete=True)


def _argument(node: ast.expr) -> str:
    """An element of a list of words as it reads when it is typed; ``…`` for several of them."""
    if isinstance(node, ast.Starred):
        return "…"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "1"


def _in_argv(words: list[str], where: str) -> Iterator[Named]:
    """A list or tuple in Python that is a command: one that begins as a command of ours, or is run as a module."""
    if words[1:3][:1] == ["-m"] and len(words) > 2 and words[2] in MODULES:
        words = [*MODULES[words[2]].split(), *words[3:]]
    if len(words) > 1 and words[0] in PROGRAMS and words[1] in PROGRAMS[words[0]] and "…" not in words:
        yield from _named(words, where, complete=False)


def _in_shell(text: str, where: str, *, complete: bool) -> Iterator[Named]:
    """Of each simple command of a piece of shell the words from ``pippa`` or ``trainer`` on."""
    text = re.sub(r"\\\n", " ", text)
    text = re.sub(r"<[^<>\n]+>", "1", text)
    text = re.sub(r"python3? -m ([\w.]+)", lambda found: MODULES.get(found[1], found[0]), text)
    text = re.sub(r"(?:Exec\w+=)?/[\w./-]+/bin/(pippa|trainer|docker)\b", r"\1", text)
    for line in text.splitlines():
        for words in _simple_commands(line):
            words = called(words)
            if words[:2] == ["docker", "compose"]:
                yield Named(where, tuple(words))
                words = _in_service(words)
            elif words[:1] == ["docker"]:
                words = words[next((number for number, word in enumerate(words) if word in PROGRAMS), len(words)) :]
            if words and words[0] in PROGRAMS:
                yield from _named(words, where, complete=complete)


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The words between ``&&``, ``|``, ``;`` and the like; none for a line that is no shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|")
    lexer.commenters = ""
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        tokens = list(lexer)
    except ValueError:  # an apostrophe in a sentence
        tokens = line.split()
    for token in [*tokens, ";"]:
        if " " in token:  # as_user "docker compose build"
            yield from _simple_commands(token)
        if token.startswith("#"):
            break
        if token and set(token) <= set("();&|"):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def _in_service(words: list[str]) -> list[str]:
    """What ``docker compose run SERVICE …`` runs in its container; nothing for other commands."""
    verb, services = compose_services(words)
    if verb == "exec" and services:
        return called(words[words.index(services[0]) + 1 :])
    if verb != "run":
        return []
    if not services or services[0] not in SERVICES:
        return []
    before = [word for word in SERVICES[services[0]].get("entrypoint", []) if word != "entrypoint"]
    return before + words[words.index(services[0]) + 1 :]


def _named(words: Sequence[str], where: str, *, complete: bool) -> Iterator[Named]:
    call = tuple(_without_placeholders(words))
    if len(call) < 2 or (not complete and call in NAMES) or call[1] == "1" or call[1].endswith(":"):
        return  # the program alone; a command that is only named; one made up as it is shown; a log's "pippa x:"
    yield Named(where, call)


def _without_placeholders(words: Sequence[str]) -> Iterator[str]:
    text = re.sub(r"\[[^\[\]]*…[^\[\]]*\]|--flag [A-Z …]+", "", " ".join(words))
    before: list[str] = []
    for word in (word.strip("[]") for word in text.split()):
        word = SUBSTITUTES.get(word, word)
        preset, data_config = _takes_preset(before), before[-1:] == ["--data-config"]
        if not word or (word == "…" and not preset and not before[-1].startswith("--")):
            continue
        if word == "…" or _STANDS_FOR.fullmatch(word):
            word = "smoke" if preset else "1"
        if data_config and (word == "1" or re.search(r"[:.]", word)):
            word = "so100" if any(each.endswith("-n17") for each in before) else "so100_dualcam"
        before.append(word)
        yield word


def _takes_preset(before: Sequence[str]) -> bool:
    """Whether the next word is a preset: the first after ``train`` and ``run``, each after ``compare``."""
    return any(
        tuple(before[: len(call)]) == call and (len(before) == len(call) or call[-1] == "compare")
        for call in TAKE_PRESETS
    )
