from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.git_lfs import GitServer, commit, git, git_server, repository
from trainer import importers
from trainer.errors import DatasetError, UsageError
from trainer.store import snapshots
from trainer.store.object_store import ObjectStore

pytestmark = pytest.mark.usefixtures("git_lfs")

DEMO_FOLDER = f"demo_data/{importers.DEMO}"


@pytest.fixture(scope="module")
def isaac(tmp_path_factory, synthetic) -> Path:
    """A repository laid out as Isaac-GR00T: the demo data among much else, in git-lfs too."""
    folder = repository(tmp_path_factory.mktemp("git") / "Isaac-GR00T")
    files = {f"{DEMO_FOLDER}/{path.relative_to(synthetic)}": path.read_bytes() for path in walk(synthetic)}
    others = {f"gr00t/module_{number}.py": b"# %d" % number for number in range(40)}
    commit(folder, {**files, **others, "media/header.mp4": b"not wanted" * 1000, "README.md": b"Isaac"})
    git(folder, "branch", "n1.5-release")
    return folder


@pytest.fixture
def server(isaac, monkeypatch) -> Iterator[GitServer]:
    with git_server(isaac.parent) as running:
        monkeypatch.setenv("PIPPA_ISAAC_REPOSITORY", f"{running.address}/Isaac-GR00T")
        # Not this machine's own settings.
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
        # One try a download: git-lfs waits longer before each further one.
        for name, value in {"COUNT": "1", "KEY_0": "lfs.transfer.maxretries", "VALUE_0": "1"}.items():
            monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
        yield running


def walk(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def oid(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def origin(store: ObjectStore, ref) -> dict[str, str]:
    return next(info.origin for info in snapshots.list_snapshots(store, "dataset") if info.ref == ref)


def test_the_demo_data_comes_by_its_name(object_store, server, isaac, synthetic, tmp_path):
    ref = importers.dataset(object_store, importers.DEMO, tmp_path / "work", data_config="fourier_gr1_arms_only")
    assert ref.name == importers.DEMO
    assert origin(object_store, ref) == {
        "git": f"{server.address}/Isaac-GR00T",
        "path": DEMO_FOLDER,
        "ref": "n1.5-release",
        "revision": git(isaac, "rev-parse", "HEAD").strip(),
    }
    folder = snapshots.pull(object_store, ref, tmp_path / "pulled")
    assert {str(p.relative_to(folder)): oid(p) for p in walk(folder)} == {
        str(p.relative_to(synthetic)): oid(p) for p in walk(synthetic)
    }
    # Of the repository no more was sent than the folder: its LFS objects, and not the forty modules.
    large = {oid(path) for path in walk(synthetic) if path.suffix in (".mp4", ".parquet")}
    assert sorted(server.fetched) == sorted(large)
    assert sum(server.blobs) < 30
    assert not list((tmp_path / "work").iterdir())


def test_what_the_store_has_is_not_asked_for_again(object_store, server, tmp_path):
    ref = importers.dataset(object_store, importers.DEMO, tmp_path / "work")
    asked = (len(server.fetched), len(server.blobs))
    address = f"git+{server.address}/Isaac-GR00T@n1.5-release#{DEMO_FOLDER}"
    server.address = "gone"
    assert importers.dataset(object_store, importers.DEMO, tmp_path / "other") == ref
    assert importers.dataset(object_store, address, tmp_path / "other") == ref
    assert importers.find(object_store, "dataset", address) == ref
    assert (len(server.fetched), len(server.blobs)) == asked


def test_a_broken_download_is_continued(object_store, server, synthetic, tmp_path):
    (video,) = synthetic.rglob("*.mp4")
    server.cut[oid(video)] = half = video.stat().st_size // 2
    with pytest.raises(UsageError) as error:
        importers.dataset(object_store, importers.DEMO, tmp_path / "work")
    assert "git can't fetch demo_data" in error.value.message and "git clone -b n1.5-release" in error.value.hint
    assert snapshots.latest(object_store, "dataset", importers.DEMO) is None
    server.cut.clear()
    before = len(server.fetched)
    importers.dataset(object_store, importers.DEMO, tmp_path / "work")
    # The table was there; of the video only the rest was fetched.
    assert server.fetched[before:] == [f"{oid(video)} bytes={half}-{video.stat().st_size - 1}"]
    assert not list((tmp_path / "work").iterdir())


def test_any_folder_of_any_repository(object_store, server, isaac, tmp_path):
    address = f"git+{server.address}/Isaac-GR00T#{DEMO_FOLDER}"
    first = importers.dataset(object_store, address, tmp_path)
    head = git(isaac, "rev-parse", "HEAD").strip()
    assert first.name == importers.DEMO and origin(object_store, first)["ref"] == "HEAD"
    pinned = f"git+{server.address}/Isaac-GR00T@{head}#{DEMO_FOLDER}"
    assert importers.dataset(object_store, pinned, tmp_path, store_name="pinned").name == "pinned"


def test_refresh_takes_what_is_new(object_store, server, tmp_path, synthetic):
    folder = repository(tmp_path / "git" / "data")
    commit(folder, {str(path.relative_to(synthetic)): path.read_bytes() for path in walk(synthetic)})
    with git_server(folder.parent) as own:
        address = f"git+{own.address}/data@main"
        first = importers.dataset(object_store, address, tmp_path / "work")
        assert importers.dataset(object_store, address, tmp_path / "work", refresh=True) == first
        commit(folder, {"README.md": b"new"})
        assert importers.dataset(object_store, address, tmp_path / "work") == first
        second = importers.dataset(object_store, address, tmp_path / "work", refresh=True)
        assert second != first and importers.dataset(object_store, address, tmp_path / "work") == second
        assert len(own.fetched) == 4, "the second time both LFS objects came again"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("n1.5-release", "n9"), "couldn't find remote ref n9"),
        (("demo_data", "dmeo_data"), "has no folder dmeo_data"),
        (("Isaac-GR00T", "Isaac"), "not found"),
    ],
)
def test_what_is_not_there_is_said(object_store, server, tmp_path, change, says):
    address = f"git+{server.address}/Isaac-GR00T@n1.5-release#{DEMO_FOLDER}"
    with pytest.raises(UsageError, match=says):
        importers.dataset(object_store, address.replace(*change), tmp_path)


def test_an_object_the_server_lost_is_no_data(object_store, server, synthetic, tmp_path):
    (video,) = synthetic.rglob("*.mp4")
    server.missing.add(oid(video))
    with pytest.raises(UsageError, match="does not exist"):
        importers.dataset(object_store, importers.DEMO, tmp_path)
    assert snapshots.latest(object_store, "dataset", importers.DEMO) is None


def test_pointers_are_never_pushed(object_store, server, isaac, tmp_path):
    clone = shutil.copytree(isaac / DEMO_FOLDER, tmp_path / "clone")
    table = "data/chunk-000/episode_000000.parquet"
    (clone / table).write_text(git(isaac, "show", f"HEAD:{DEMO_FOLDER}/{table}"))
    with pytest.raises(DatasetError, match=rf"{table} is a git-lfs pointer"):
        importers.dataset(object_store, str(clone), tmp_path / "work")


def test_links_are_refused(object_store, tmp_path, server):
    folder = repository(tmp_path / "git" / "links")
    (folder / "data").mkdir()
    (folder / "data/secret").symlink_to("/etc/passwd")
    commit(folder, {"data/meta/info.json": b"{}"})
    with git_server(folder.parent) as own, pytest.raises(UsageError, match=r"data/secret in .* is a link"):
        importers.dataset(object_store, f"git+{own.address}/links@main#data", tmp_path / "work")


@pytest.fixture
def without_lfs(tmp_path, monkeypatch) -> None:
    """A machine with git alone, whose user once had git-lfs."""
    (tmp_path / "bin").mkdir()
    for tool in ("git", "sh"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "gitconfig").write_text('[filter "lfs"]\n\tprocess = git-lfs filter-process\n\trequired = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_what_lies_in_plain_git_needs_no_git_lfs(object_store, synthetic, tmp_path, request):
    folder = tmp_path / "git" / "plain"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, {f"data/{path.relative_to(synthetic)}": path.read_bytes() for path in walk(synthetic)})
    with git_server(folder.parent) as own:
        request.getfixturevalue("without_lfs")
        ref = importers.dataset(object_store, f"git+{own.address}/plain@main#data", tmp_path / "work")
    assert ref.name == "data"


def test_where_there_are_pointers_git_lfs_is_asked_for(object_store, server, without_lfs, tmp_path):
    with pytest.raises(UsageError, match=r"git-lfs is not installed here, and .* lies in git-lfs") as refused:
        importers.dataset(object_store, importers.DEMO, tmp_path / "work")
    assert "apt-get install git-lfs" in refused.value.hint and "pippa data push CLONE" in refused.value.hint


def test_without_git_it_says_what_to_install(object_store, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed here") as refused:
        importers.dataset(object_store, importers.DEMO, tmp_path / "work")
    assert "apt-get install git`" in refused.value.hint and "--launcher docker" in refused.value.hint
