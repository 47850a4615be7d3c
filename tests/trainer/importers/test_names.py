from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import UsageError
from trainer.importers.names import (
    Folder,
    Generated,
    GitFolder,
    HubRepository,
    S3Prefix,
    Stored,
    default_name,
    describe,
    parse,
)
from trainer.store.manifest import check_name


@pytest.mark.parametrize(
    ("name", "means", "called"),
    [
        ("synthetic.PickNPlace", Generated("synthetic.PickNPlace"), "synthetic.PickNPlace"),
        ("my-table", Stored("my-table", None), "my-table"),
        ("my-table@0123456789ab", Stored("my-table", "0123456789ab"), "my-table"),
        ("owner/name", HubRepository("owner/name", None), "owner/name"),
        ("owner/name@v2.1", HubRepository("owner/name", "v2.1"), "owner/name"),
        ("owner/name@refs/pr/1", HubRepository("owner/name", "refs/pr/1"), "owner/name"),
        (
            "robot_sim.PickNPlace",
            GitFolder(
                "https://github.com/NVIDIA/Isaac-GR00T",
                "n1.5-release",
                "demo_data/robot_sim.PickNPlace",
                "robot_sim.PickNPlace",
            ),
            "robot_sim.PickNPlace",
        ),
        ("robot_sim.PickNPlace@0123456789ab", Stored("robot_sim.PickNPlace", "0123456789ab"), "robot_sim.PickNPlace"),
        (
            "git+https://host/owner/repo.git@feature/x#a/b c/",
            GitFolder("https://host/owner/repo.git", "feature/x", "a/b c", "b-c"),
            "b-c",
        ),
        ("git+https://host/owner/repo.git", GitFolder("https://host/owner/repo.git", "HEAD", "", "repo"), "repo"),
        ("git+ssh://git@host/repo@v1", GitFolder("ssh://git@host/repo", "v1", "", "repo"), "repo"),
        ("s3://lake/robots/so101/", S3Prefix("lake", "robots/so101"), "so101"),
        ("s3://lake", S3Prefix("lake", ""), "lake"),
    ],
)
def test_what_a_name_means(name, means, called):
    source = parse("dataset", name, {})
    assert source == means and default_name(means) == called
    check_name(called)
    assert describe("dataset", name)


def test_a_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("dataset", "owner/name", {}) == Folder("owner/name")
    assert parse("dataset", "./x", {}) == Folder("./x")


def test_another_isaac_repository():
    environ = {"PIPPA_ISAAC_REPOSITORY": "https://mirror/Isaac", "PIPPA_ISAAC_REF": "main"}
    source = parse("dataset", "robot_sim.PickNPlace", environ)
    assert isinstance(source, GitFolder) and (source.url, source.ref) == ("https://mirror/Isaac", "main")
    assert isinstance(parse("model", "robot_sim.PickNPlace", environ), Stored)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("git+https://user:hunter2@host/repo", "holds credentials"),
        ("git+https://token@host/repo", "holds credentials"),
        ("git+ftp://user:hunter2@host/repo", "holds credentials"),
        ("git+https://user:hunter2@[host/repo", "not the address"),
        ("git+ext::sh -c touch", "not the address"),
        ("git+https://host", "not the address"),
        ("git+https://host/repo@--upload-pack=x", "not the address"),
        ("git+https://host/repo#../x", "not a folder"),
        ("git+https://host/repo#a/./b", "not a folder"),
        ("git+https://host/repo#*", "not a folder"),
        ("s3://", "not the address"),
        ("s3://Bucket/x", "not the address"),
        ("s3://lake/a/../b", "not the address"),
    ],
)
def test_an_address_that_can_not_be_meant(name, says):
    with pytest.raises(UsageError, match=says) as error:
        parse("dataset", name, {})
    assert "hunter2" not in str(error.value) and "token" not in error.value.message


@pytest.mark.parametrize("login", ["user:hunter2", "token"])
def test_a_password_in_the_address_of_the_isaac_repository_is_refused(login):
    environ = {"PIPPA_ISAAC_REPOSITORY": f"https://{login}@mirror/Isaac"}
    with pytest.raises(UsageError, match="at mirror in PIPPA_ISAAC_REPOSITORY holds credentials") as error:
        parse("dataset", "robot_sim.PickNPlace", environ)
    assert login not in str(error.value)


@given(st.text(max_size=40) | st.text("git+htps:/@#s3.ab-%~ \0é[]", max_size=40))
def test_any_text_means_something_or_is_refused(name):
    for kind in ("dataset", "model"):
        try:
            source = parse(kind, name, {})
        except UsageError:
            continue
        if source is not None and not isinstance(source, Folder):
            assert default_name(source)
            assert describe(kind, name)
