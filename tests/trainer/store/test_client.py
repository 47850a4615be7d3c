"""What pippa asks of an S3 server, and what it says when it doesn't get it."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from flows.embedded.s3 import s3_service, store_settings
from tests.support.proxy import proxy
from trainer.config.settings import StoreSettings
from trainer.errors import StoreError
from trainer.store.client import ObjectStore
from trainer.store.failures import MissingObjectError
from trainer.store.hashing import hash_file
from trainer.store.parts import PARTS_PER_FILE

SECRET = "the-secret-key"


def put(store: ObjectStore, path: Path, key: str) -> None:
    store.put_file(path, key, hashed=hash_file(path))


def test_objects(object_store: ObjectStore, tmp_path: Path) -> None:
    assert object_store.read_bytes("a/b") is None
    assert object_store.size("a/b") is None
    assert not object_store.exists("a/b")
    object_store.write_bytes("a/b", b"12345")
    object_store.write_bytes("a/empty", b"")
    assert object_store.read_bytes("a/b") == b"12345"
    assert object_store.read_bytes("a/empty") == b""
    assert object_store.size("a/b") == 5
    assert b"".join(object_store.stream("a/b", 3)) == b"45"
    object_store.get_file("a/b", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"12345"
    object_store.delete("a/b")
    object_store.delete("a/b")
    assert not object_store.exists("a/b")
    with pytest.raises(MissingObjectError):
        object_store.get_file("a/b", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_listing_is_whole_ordered_and_dated(object_store: ObjectStore) -> None:
    keys = [*sorted(f"many/{i % 7}/{i}" for i in range(60)), "other"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: object_store.write_bytes(key, b"x" * len(key)), keys))
    found = list(object_store.list("many/"))
    assert [each.key for each in found] == keys[:-1]
    assert all(each.size == len(each.key) for each in found)
    assert all(abs(each.modified - datetime.now(UTC)) < timedelta(minutes=2) for each in found)
    assert list(object_store.list("nothing/")) == []


# SeaweedFS lets losers wait in steps of a second: twenty of them take a while.
@pytest.mark.parametrize("writers", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_conditional_write_has_one_winner(object_store: ObjectStore, writers: int) -> None:
    barrier = threading.Barrier(writers)

    def write(i: int) -> bool:
        barrier.wait()
        return object_store.write_json("contested", {"writer": i}, if_absent=True)

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))
    assert won.count(True) == 1
    assert object_store.read_json("contested") == {"writer": won.index(True)}
    # The winner's own repetition is no conflict: the answer to its first try may have been lost.
    assert object_store.write_json("contested", {"writer": won.index(True)}, if_absent=True)


def test_json_that_is_none_is_an_error_not_a_crash(object_store: ObjectStore) -> None:
    object_store.write_bytes("document", b"\xff{")
    with pytest.raises(StoreError, match=r"document .* damaged"):
        object_store.read_json("document")


@pytest.mark.parametrize("size", [0, 1, (32 << 20) + 7])
def test_files_come_back_as_they_went(object_store: ObjectStore, tmp_path: Path, size: int) -> None:
    (tmp_path / "in").write_bytes(os.urandom(size))
    put(object_store, tmp_path / "in", "file")
    object_store.get_file("file", tmp_path / "out")
    assert (tmp_path / "in").read_bytes() == (tmp_path / "out").read_bytes()


@pytest.mark.parametrize(
    ("size", "change"), [(1000, "byte"), (1000, "shorter"), (1000, "longer"), ((16 << 20) + 5, "byte")]
)
def test_a_file_that_changes_underneath_leaves_no_object(
    object_store: ObjectStore, tmp_path: Path, size: int, change: str
) -> None:
    path = tmp_path / "file"
    content = bytearray(os.urandom(size))
    path.write_bytes(content)
    hashed = hash_file(path)
    if change == "byte":
        content[-1] ^= 1
    path.write_bytes({"byte": content, "shorter": content[:-1], "longer": content + b"x"}[change])
    with pytest.raises(StoreError, match="changed while it was uploaded"):
        object_store.put_file(path, "file", hashed=hashed)
    assert not object_store.exists("file")


def test_pieces_of_a_large_object_come_in_order_from_anywhere(object_store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom((50 << 20) + 7)
    (tmp_path / "in").write_bytes(content)
    put(object_store, tmp_path / "in", "file")
    for offset in (0, 5, 16 << 20, len(content) - 1):
        pieces = [bytes(piece) for piece in object_store.stream("file", offset, len(content))]
        assert b"".join(pieces) == content[offset:]
    # An object that is shorter than it should be ends early; nothing waits for the rest.
    for size in (len(content) + 1, len(content) + (40 << 20)):
        assert b"".join(bytes(piece) for piece in object_store.stream("file", 0, size)) == content
    # Left in the middle, nothing is kept from the next one.
    for _ in range(3):
        assert len(next(iter(object_store.stream("file", 0, len(content))))) == 16 << 20


def test_a_large_object_comes_over_connections_that_break(object_store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom((50 << 20) + 7)
    (tmp_path / "in").write_bytes(content)
    put(object_store, tmp_path / "in", "file")
    host, _, port = object_store.settings.host.partition(":")
    with proxy(host, int(port)) as way:
        store = ObjectStore(object_store.settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"}))
        received = bytearray()
        for piece in store.stream("file", 0, len(content)):
            received += piece
            if len(received) < 40 << 20:  # the parts after this one are on their way
                way.cut()
                way.mend()
    assert received == content


def test_connections_are_used_again(object_store: ObjectStore, tmp_path: Path) -> None:
    size = 100 << 20
    (tmp_path / "in").write_bytes(bytes(size))
    put(object_store, tmp_path / "in", "file")
    store = ObjectStore(object_store.settings)
    for _ in range(3):
        for _piece in store.stream("file", 0, size):
            pass
    assert store._http.connection_from_url(store.settings.endpoint).num_connections <= PARTS_PER_FILE


def test_the_server_is_killed_and_comes_back_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    service = s3_service(tmp_path, {})
    with service as connection:
        store = ObjectStore(store_settings(connection), patience=60)
        path = tmp_path / "large"
        content = os.urandom(33 << 20)
        path.write_bytes(content)
        killed = threading.Event()

        def advance(count: int) -> None:
            # Called before a part is sent; kill in the middle of the second one's transfer.
            if count and not killed.is_set():
                killed.set()
                threading.Timer(0.15, kill).start()

        def kill() -> None:
            for process in psutil.process_iter():
                if process.name() == "weed" and process.cwd() == str(service.folder):
                    process.kill()

        store.put_file(path, "large", hashed=hash_file(path), advance=advance)
        assert killed.is_set()
        assert b"".join(store.stream("large")) == content


def test_unfinished_uploads_are_freed(object_store: ObjectStore, request: pytest.FixtureRequest) -> None:
    bucket, client = object_store.settings.bucket, object_store._client
    upload = client._create_multipart_upload(bucket, "blobs/large", {})
    client._upload_part(bucket, "blobs/large", b"x" * (5 << 20), {}, upload, 1)
    now = datetime.now(UTC)
    assert object_store.abort_uploads("blobs/", now - timedelta(minutes=5)) == 0
    freed = object_store.abort_uploads("blobs/", now + timedelta(minutes=5))
    assert freed == (0 if "minio" in request.node.name else 1)
    assert object_store.abort_uploads("blobs/", now + timedelta(minutes=5)) == 0


class TestErrors:
    """Each is a ``StoreError`` with its cure, in bounded time, without a secret."""

    def failure(self, settings: StoreSettings, patience: float = 0.1) -> StoreError:
        store = ObjectStore(settings, patience=patience)
        errors = []
        for request in (
            lambda: store.write_json("a", {}),
            lambda: store.write_json("a", {}, if_absent=True),
            lambda: store.read_json("a"),
            lambda: list(store.list("a")),
            lambda: store.delete("a"),
        ):
            with pytest.raises(StoreError) as caught:
                request()
            shown = "".join(traceback.format_exception(caught.value)) + repr(store)
            assert SECRET not in shown
            assert "X-Amz-Signature" not in shown
            errors.append(caught.value)
        assert len({error.hint for error in errors}) == 1
        return errors[0]

    def settings(self, endpoint: str) -> StoreSettings:
        return StoreSettings(endpoint=endpoint, access_key=SecretStr("someone"), secret_key=SecretStr(SECRET))

    def test_unreachable(self) -> None:
        error = self.failure(self.settings("http://127.0.0.1:9"))
        assert "can't be reached (Connection refused)" in error.message
        assert "PIPPA_S3_ENDPOINT" in error.hint

    def test_no_such_host(self) -> None:
        assert "can't be reached" in self.failure(self.settings("http://nowhere.invalid:9000")).message

    def test_wrong_keys(self, s3_settings: StoreSettings) -> None:
        wrong = s3_settings.model_copy(update={"secret_key": SecretStr(SECRET)})
        error = self.failure(wrong)
        assert "with these keys" in error.message
        assert "PIPPA_S3_SECRET_KEY" in error.hint

    def test_no_bucket(self, s3_settings: StoreSettings) -> None:
        error = self.failure(s3_settings.model_copy(update={"bucket": "no-such-bucket"}))
        assert "no bucket 'no-such-bucket'" in error.message
        assert "PIPPA_S3_BUCKET" in error.hint

    def test_something_else_answers(self) -> None:
        with answering(200, b"<html>It works!</html>", "text/html") as settings, pytest.raises(StoreError):
            list(ObjectStore(settings, patience=0.2).list("a"))
        refused = pytest.raises(StoreError, match="does not answer as an S3 store")
        with answering(404, b"<html>No</html>", "text/html") as settings, refused:
            ObjectStore(settings).read_bytes("a")

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (403, "RequestTimeTooSkewed", "clocks"),
            (507, "XMinioStorageFull", "is full"),
            (503, "SlowDown", "in trouble"),
            (403, "AccessDenied", "with these keys"),
        ],
    )
    def test_answers(self, status: int, code: str, said: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
        with answering(status, body) as settings:
            error = self.failure(settings)
        assert said in error.message
        assert code in error.message or code == "RequestTimeTooSkewed"
        assert error.hint

    def test_the_cure_of_a_full_store_frees_space(self) -> None:
        body = b"<Error><Code>XMinioStorageFull</Code><Message>m</Message></Error>"
        with answering(507, body) as settings:
            hint = self.failure(settings).hint
        assert hint.index("Free other space") < hint.index("`pippa checkpoints gc --keep 2 --delete`")

    def test_passing_trouble_is_waited_out(self) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>m</Message></Error>"
        with answering(503, body, first=2) as settings:
            ObjectStore(settings, patience=20).write_bytes("a", b"x")
            assert ObjectStore(settings, patience=20).write_json("a", {}, if_absent=True)


@contextmanager
def answering(
    status: int, body: bytes, kind: str = "application/xml", first: int | None = None
) -> Iterator[StoreSettings]:
    """A server that answers all requests (or the ``first`` ones) so, as a real one can't be made to."""
    left = [first if first is not None else 1 << 30]

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            failing = left[0] > 0
            left[0] -= 1
            content = body if failing else b""
            self.send_response(status if failing else 200)
            self.send_header("Content-Type", kind)
            self.send_header("ETag", '"0"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield StoreSettings(
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key=SecretStr("someone"),
            secret_key=SecretStr(SECRET),
        )
    finally:
        server.shutdown()
        server.server_close()
