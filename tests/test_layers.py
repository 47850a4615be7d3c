"""What may import what: the trainer image has no Prefect, the worker image has no torch, light commands stay light."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCH = re.compile(r"trainer\.(data|gr00t|training)\.")
HEAVY = {"torch", "transformers", "prefect", "docker", "wandb", "pyarrow", "av", "matplotlib", "accelerate"}


@functools.cache
def imported(file: Path) -> set[str]:
    """Top-level packages that ``file`` imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


ROOMS = {
    # A fine-tune config holds a data config, whose declaration is at home with the data; the data asks for settings.
    "trainer.config": {"trainer.data"},
    "trainer.store": {"trainer.config"},
    "trainer.data": {"trainer.config"},
    # A policy is loaded by its name in the registry as well.
    "trainer.gr00t": {"trainer.config", "trainer.data", "trainer.store"},
    "trainer.importers": {"trainer.config", "trainer.store", "trainer.data", "trainer.gr00t"},
    # The engine reports and follows the process that started it as every engine does: with the runner's modules.
    "trainer.runner": {
        "trainer.config",
        "trainer.store",
        "trainer.data",
        "trainer.importers",
        "trainer.gr00t",
        "trainer.training",
    },
    "trainer.training": {"trainer.config", "trainer.data", "trainer.gr00t", "trainer.runner"},
    "trainer.evaluation": {
        "trainer.config",
        "trainer.store",
        "trainer.data",
        "trainer.gr00t",
        "trainer.importers",
        "trainer.runner",
    },
    "trainer.export": {
        "trainer.config",
        "trainer.store",
        "trainer.data",
        "trainer.gr00t",
        "trainer.importers",
        "trainer.evaluation",
    },
    # The policy itself is handed to it.
    "trainer.serving": {"trainer.data", "trainer.gr00t"},
    "flows.launch": {"flows.embedded"},
    "flows.embedded": set(),
    "flows.views": set(),
    "flows.orchestration": {"flows.embedded", "flows.launch", "flows.views"},
    "flows.commands": {"flows.embedded", "flows.launch", "flows.orchestration", "flows.views"},
}
"""What each room may import of its package beside the loose modules at its root; ``flows`` may use all of
``trainer``."""


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    found = {}
    for package in ("trainer", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            found[".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = file
    return found


@functools.cache
def edges() -> dict[str, set[str]]:
    """Which modules each module imports, also inside functions."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {each if each in known else node.module for each in full}
        found[name] = (targets & known.keys()) - {name}
    return found


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", ["trainer", "flows"])
def test_every_folder_is_a_room_with_rules(package):
    rooms = {f"{package}.{folder.parent.name}" for folder in (ROOT / package).glob("*/__init__.py")}
    assert rooms == {room for room in ROOMS if room.startswith(package)}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room):
    guilty = [
        (module, target)
        for module, targets in edges().items()
        for target in targets
        if room_of(module) == room
        and room_of(target) in ROOMS.keys() - {room} - ROOMS[room]
        and target.partition(".")[0] == room.partition(".")[0]
    ]
    assert not guilty


def test_no_modules_import_each_other_in_a_circle():
    graphlib.TopologicalSorter(edges()).prepare()


def test_tests_mirror_the_rooms():
    """A folder of tests is a room's, or `flows/team`; a test that has a module's name is in the folder of its room."""
    known = {file.relative_to(ROOT) for file in modules().values()}
    folders = {file.parent for file in known} | {Path("flows/team")}
    for package in ("trainer", "flows"):
        for file in (ROOT / "tests" / package).rglob("test_*.py"):
            test = file.relative_to(ROOT / "tests")
            assert test.parent in folders, file
            same_name = [each for each in known if each.name == test.name.removeprefix("test_")]
            assert len(same_name) != 1 or test.parent not in same_name[0].parent.parents, f"{file}: {same_name}"


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("trainer", {"flows", "pippa", "prefect", "docker"}),
        ("flows", {"pippa", "torch"}),
        ("pippa", {"torch", "prefect"}),
    ],
)
def test_data_flows_one_way(package, never):
    guilty = {str(file): found for file in (ROOT / package).rglob("*.py") if (found := imported(file) & never)}
    assert not guilty


def test_torch_comes_with_data_gr00t_and_training_alone():
    light = [name for name in modules() if name.split(".")[0] == "trainer" and not TORCH.match(name)]
    code = f"import importlib, sys\nfor name in {light}: importlib.import_module(name)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers"} & set(loaded.split())


@pytest.mark.parametrize(
    "module",
    [
        *("flows.cli", "pippa", "trainer.cli", "trainer.runner.command", "trainer.store.stores"),
        "trainer.gr00t.checkpoint",  # a name that nobody knows is said before torch is there
    ],
)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())


OWN_CODE = re.compile(r"trainer\.\w+\.n\d\d(_\w+|\..+)?")
"""Modules of one generation."""
MAY_NAME_A_GENERATION = {
    "trainer.generation": "declares them",
    "trainer.config.finetune_config": "the flags of N1.5, which the others' derive from",
    "trainer.config.generations": "lists the flags of each",
    "trainer.config.presets": "lists the presets of each",
    "trainer.data.transforms.sample": "the processing of N1.5",
    "trainer.runner.isaac_n17": "writes the command line of one script of upstream, an engine",
}


def generations_named_in(file: Path) -> set[str]:
    """What in the code of ``file`` names one generation: ``N17``, ``trainer.gr00t.n17``, ``"N1.7"``."""
    from trainer.generation import GENERATIONS

    texts = {text for each in GENERATIONS for text in (each.name, each.package, each.model_type)}
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
                found |= {word} if re.search(r"(^|[._])(n|N)\d\d([._A-Z]|$)|N1d\d|GR00TN\d", word) else set()
            case ast.ImportFrom(module=str(module)) if OWN_CODE.match(module):
                found.add(module)
            case ast.Constant(value=str(text)) if text in texts:
                found.add(text)
    return {word for word in found if not re.search(r"isaac_n\d\d", word)}  # an engine's name


def test_generic_code_names_no_generation():
    named = {name: found for name, file in modules().items() if (found := generations_named_in(file))}
    guilty = {name: found for name, found in named.items() if not OWN_CODE.match(name)}
    assert guilty.keys() == MAY_NAME_A_GENERATION.keys(), (
        "Run, store, evaluation, serving and flows do not know which generation they work with. What differs belongs "
        "into the generation's own modules, found with `generation.module(room, name)`, or into its class of flags: "
        f"{ {name: found for name, found in guilty.items() if name not in MAY_NAME_A_GENERATION} }"
    )


def test_generations_do_not_use_each_other():
    """So that one can be changed, or removed, without the others."""
    package = re.compile(r"\.(n\d\d)\b")
    guilty = [
        (name, target)
        for name, targets in edges().items()
        for target in targets
        if (ours := package.search(name)) and (theirs := package.search(target)) and ours[1] != theirs[1]
    ]
    assert not guilty


BRINGS = {
    "data.{}.rules": {"RULES"},
    "gr00t.{}.checkpoint": {"read"},
    "gr00t.{}.compatibility": {"require_fit"},
    "gr00t.{}.memory": {"parts"},
    "gr00t.{}.policy": {"CheckpointActor"},
    "gr00t.{}.sections": {"read", "official", "tiny", "longest_horizon"},
    "gr00t.{}.tiny": {"make_tiny_base_model"},
    "training.{}": {"make_trainer"},
}
"""What each generation has to have, beside its class of flags."""


def test_every_generation_brings_all_that_is_asked_of_it():
    from trainer.config.generations import CONFIGS
    from trainer.generation import GENERATIONS

    known, lacking = modules(), []
    for generation in GENERATIONS:
        for pattern, names in BRINGS.items():
            file = known.get(module := f"trainer.{pattern.format(generation.package)}")
            tree = ast.parse(file.read_text()) if file else ast.Module([], [])
            has = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assigned = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
            has |= {target.id for target in assigned if isinstance(target, ast.Name)}
            lacking += [f"{module}.{name}" for name in sorted(names - has)]
        if generation.name not in CONFIGS:
            lacking.append(f"its class of flags in trainer.config.generations.CONFIGS, {generation}")
    assert not lacking


def test_what_is_asked_of_a_generation_is_listed():
    asked = {"gr00t.{}.tiny"}  # in a process that `trainer.importers.generated` starts
    for module, file in modules().items():
        for room, name in re.findall(r'\.module\("(\w+)"(?:, "(\w+)")?\)', file.read_text()):
            asked.add(f"{room}.{{}}.{name}".removesuffix("."))
            ours, theirs = room_of(module), f"trainer.{room}"
            assert ours not in ROOMS or theirs in {ours, *ROOMS[ours]}, f"{module} asks {theirs}"
    assert asked == BRINGS.keys()


LINUX_ONLY = {
    "os": {
        *"copy_file_range eventfd fdatasync getrandom getxattr listxattr memfd_create pidfd_open pipe2".split(),
        *"posix_fadvise posix_fallocate removexattr setns setxattr splice unshare O_TMPFILE O_DIRECT".split(),
        *"sched_getaffinity sched_setaffinity sched_setscheduler".split(),
    },
    "signal": {"sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT", "SIGPOLL"},
    "socket": {"AF_NETLINK", "SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT"},
    "select": {"epoll"},
    "time": {"CLOCK_BOOTTIME"},
    "resource": {"prlimit"},
}


@pytest.mark.parametrize("package", ["flows", "trainer"])
def test_what_only_linux_has_is_asked_for_first(package):
    """By ``getattr`` or ``hasattr``: pippa runs on macOS too."""
    guilty = {
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value.id}.{node.attr}"
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.attr in LINUX_ONLY.get(node.value.id, ())
    }
    assert not guilty


def test_the_flows_work_without_the_trainers_packages():
    """As in the flows image, which has the dependency groups `flows` and no other."""
    absent = sorted({*HEAVY - {"prefect", "docker"}, "huggingface_hub", "numpy", "peft", "safetensors", "torchvision"})
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sorted((ROOT / "flows").rglob("*.py"))
        if file.name != "__init__.py"
    ]
    code = f"import importlib, sys\nfor name in {absent}: sys.modules[name] = None\n"
    code += f"for name in {modules}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
