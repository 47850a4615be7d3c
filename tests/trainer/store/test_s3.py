"""What only an S3 server has: connections, signatures, parts, and answers that are errors."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.proxy import proxy
from tests.support.s3_server import S3Server
from trainer.config.settings import DEFAULT_BUCKET, S3Settings
from trainer.errors import StoreError
from trainer.store.hashing import PART_BYTES, hash_file
from trainer.store.parts import PARTS_PER_FILE
from trainer.store.s3 import S3Store

SECRET = "the-secret-key"


@pytest.fixture
def object_store(s3_settings: S3Settings) -> S3Store:
    return S3Store(s3_settings)


def put(store: S3Store, path: Path, key: str) -> None:
    store.put_file(path, key, hashed=hash_file(path))


def test_a_large_object_comes_over_connections_that_break(object_store: S3Store, tmp_path: Path) -> None:
    content = os.urandom((50 << 20) + 7)
    (tmp_path / "in").write_bytes(content)
    put(object_store, tmp_path / "in", "file")
    host, _, port = object_store.settings.host.partition(":")
    with proxy(host, int(port)) as way:
        store = S3Store(object_store.settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"}))
        received = bytearray()
        for piece in store.stream("file", 0, len(content)):
            received += piece
            if len(received) < 40 << 20:  # the parts after this one are on their way
                way.cut()
                way.mend()
    assert received == content


def test_connections_are_used_again(object_store: S3Store, tmp_path: Path) -> None:
    size = 100 << 20
    (tmp_path / "in").write_bytes(bytes(size))
    put(object_store, tmp_path / "in", "file")
    store = S3Store(object_store.settings)
    for _ in range(3):
        for _piece in store.stream("file", 0, size):
            pass
    assert store._http.connection_from_url(store.settings.endpoint).num_connections <= PARTS_PER_FILE


@pytest.mark.slow
def test_the_server_is_killed_and_comes_back_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    with S3Server(tmp_path / "server") as server:
        store = S3Store(server.settings, patience=60)
        path = tmp_path / "large"
        content = os.urandom(33 << 20)
        path.write_bytes(content)
        restarts: list[threading.Thread] = []

        def restart() -> None:
            time.sleep(0.05)
            server.kill()
            server.start()

        def advance(count: int) -> None:
            # Called before a part is sent; kill in the middle of the second one's transfer.
            if count and not restarts:
                restarts.append(threading.Thread(target=restart))
                restarts[0].start()

        store.put_file(path, "large", hashed=hash_file(path), advance=advance)
        restarts[0].join()
        assert b"".join(bytes(piece) for piece in store.stream("large")) == content


def test_unfinished_uploads_are_freed(object_store: S3Store) -> None:
    bucket, client = object_store.settings.bucket, object_store._client
    upload, part = client.begin_upload(bucket, "blobs/large"), bytes(5 << 20)
    client.put_part(bucket, "blobs/large", upload, 1, memoryview(part), hashlib.sha256(part).hexdigest())
    now = datetime.now(UTC)
    assert object_store.abort_uploads("blobs/", now - timedelta(minutes=5)) == 0
    freed = object_store.abort_uploads("blobs/", now + timedelta(minutes=5))
    assert freed == (0 if shutil.which("minio") else 1)
    assert object_store.abort_uploads("blobs/", now + timedelta(minutes=5)) == 0


def test_a_large_upload_goes_on_after_its_process_died(object_store: S3Store, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(4 * PART_BYTES + 5))
    hashed, key = hash_file(file), "blobs/sha256/aa/large"
    bucket, client = object_store.settings.bucket, object_store._client
    upload = client.begin_upload(bucket, key)
    content = file.read_bytes()
    for number in (1, 2):  # and the process is killed
        part = memoryview(content)[(number - 1) * PART_BYTES : number * PART_BYTES]
        client.put_part(bucket, key, upload, number, part, hashed.parts[number - 1])
    wrong = bytes(PART_BYTES)  # of the size, and not of this content
    client.put_part(bucket, key, upload, 3, memoryview(wrong), hashlib.sha256(wrong).hexdigest())
    sent: list[int] = []
    put_part = client.put_part
    client.put_part = lambda *of: sent.append(of[3]) or put_part(*of)  # pyrefly: ignore
    advanced: list[int] = []
    object_store.put_file(file, key, hashed=hashed, advance=advanced.append)
    assert sorted(sent) == [3, 4, 5] and sum(advanced) == hashed.size
    assert object_store.read_bytes(key) == content
    assert object_store.abort_uploads("blobs/", datetime.now(UTC) + timedelta(minutes=5)) == 0


def test_only_the_bucket_of_the_default_name_is_created_unasked(s3_server: S3Settings) -> None:
    settings = s3_server.model_copy(update={"bucket": f"mistyped-{secrets.token_hex(4)}"})
    store = S3Store(settings)
    with pytest.raises(StoreError, match="There is no bucket") as refused:
        store.open()
    assert "PIPPA_S3_BUCKET" in refused.value.hint and "pippa store create" in refused.value.hint
    S3Store(s3_server).open()
    assert s3_server.bucket == DEFAULT_BUCKET
    store.create()
    store.open()
    store._client.remove_bucket(settings.bucket)


@pytest.mark.parametrize(
    "endpoint", ["http://s3:9000/bucket", "http://s3:9000/?a=b", "http://key:secret@s3:9000", "s3:9000", "http://[s3"]
)
def test_an_endpoint_is_scheme_host_and_port(endpoint: str) -> None:
    environ = {"PIPPA_S3_ENDPOINT": endpoint, "PIPPA_S3_ACCESS_KEY": "k", "PIPPA_S3_SECRET_KEY": "s"}
    with pytest.raises(StoreError, match="PIPPA_S3_ENDPOINT") as refused:
        S3Settings.from_environ(environ)
    assert "secret" not in str(refused.value).lower().replace("pippa_s3_secret_key", "")
    assert S3Settings.from_environ({**environ, "PIPPA_S3_ENDPOINT": "http://s3:9000/"}).host == "s3:9000"


class TestErrors:
    """Each is a ``StoreError`` with its cure, in bounded time, without a secret."""

    def failure(self, settings: S3Settings, patience: float = 0.1) -> StoreError:
        store = S3Store(settings, patience=patience)
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

    def settings(self, endpoint: str) -> S3Settings:
        return S3Settings(endpoint=endpoint, access_key=SecretStr("someone"), secret_key=SecretStr(SECRET))

    def test_unreachable(self) -> None:
        error = self.failure(self.settings("http://127.0.0.1:9"))
        assert "can't be reached (Connection refused)" in error.message
        assert "PIPPA_S3_ENDPOINT" in error.hint

    def test_no_such_host(self) -> None:
        assert "can't be reached" in self.failure(self.settings("http://nowhere.invalid:9000")).message

    def test_wrong_keys(self, s3_settings: S3Settings) -> None:
        wrong = s3_settings.model_copy(update={"secret_key": SecretStr(SECRET)})
        error = self.failure(wrong)
        assert "with these keys" in error.message
        assert "PIPPA_S3_SECRET_KEY" in error.hint

    def test_no_bucket(self, s3_settings: S3Settings) -> None:
        error = self.failure(s3_settings.model_copy(update={"bucket": "no-such-bucket"}))
        assert "no bucket 'no-such-bucket'" in error.message
        assert "PIPPA_S3_BUCKET" in error.hint

    def test_something_else_answers(self) -> None:
        with answering(200, b"<html>It works!</html>", "text/html") as settings, pytest.raises(StoreError):
            list(S3Store(settings, patience=0.2).list("a"))
        refused = pytest.raises(StoreError, match="does not answer as an S3 store")
        with answering(404, b"<html>No</html>", "text/html") as settings, refused:
            S3Store(settings).read_bytes("a")

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (403, "RequestTimeTooSkewed", "clocks"),
            (507, "XMinioStorageFull", "is full"),
            (503, "SlowDown", "in trouble"),
            (403, "AccessDenied", "with these keys"),
            (400, "AuthorizationHeaderMalformed", "its region is not"),
        ],
    )
    def test_answers(self, status: int, code: str, said: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
        with answering(status, body) as settings:
            error = self.failure(settings)
        assert said in error.message
        assert code in error.message or code == "RequestTimeTooSkewed"
        assert error.hint
        assert ("PIPPA_S3_REGION" in error.hint) == ("region" in said)

    def test_the_cure_of_a_full_store_frees_space(self) -> None:
        body = b"<Error><Code>XMinioStorageFull</Code><Message>m</Message></Error>"
        with answering(507, body) as settings:
            hint = self.failure(settings).hint
        assert hint.index("Free other space") < hint.index("`pippa checkpoints gc --keep 2 --delete`")

    def test_passing_trouble_is_waited_out(self) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>m</Message></Error>"
        with answering(503, body, first=2) as settings:
            S3Store(settings, patience=20).write_bytes("a", b"x")
            assert S3Store(settings, patience=20).write_json("a", {}, if_absent=True)


@contextmanager
def answering(
    status: int, body: bytes, kind: str = "application/xml", first: int | None = None
) -> Generator[S3Settings]:
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
        yield S3Settings(
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key=SecretStr("someone"),
            secret_key=SecretStr(SECRET),
        )
    finally:
        server.shutdown()
        server.server_close()
