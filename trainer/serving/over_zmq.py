"""GR00T's clients over ZMQ (REQ): one thread takes requests and sends replies; it never waits for the model."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
from concurrent.futures import Future
from typing import Any

import zmq

from trainer.serving.arrays import LARGEST_REQUEST, RequestError
from trainer.serving.service import ENDPOINTS, PING, Service, explained
from trainer.serving.wire import Form, pack, unpack

log = logging.getLogger(__name__)

LARGEST_MESSAGE = 2 * LARGEST_REQUEST
"""Bytes that are read at all, so that a request that is too large gets an error."""
MAX_CLIENTS = 1024
"""Whose form is remembered; more clients forget the oldest's."""
WAITING_EACH = 4
"""Messages of one client in either direction that ZMQ holds; further replies to one that reads none are dropped."""


class ZmqServer:
    """A ROUTER socket: each client has its own queue, and ZMQ takes from them in turn."""

    def __init__(self, service: Service, address: str) -> None:
        """Listen on ``address``, such as ``tcp://127.0.0.1:5555``. Raises ``zmq.ZMQError``."""
        self._service = service
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)  # ZMQ disconnects who sends more
        self._socket.setsockopt(zmq.RCVHWM, WAITING_EACH)
        self._socket.setsockopt(zmq.SNDHWM, WAITING_EACH)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)
        self._socket.setsockopt(zmq.IPV6, 1)
        try:
            self._socket.bind(address)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        self._replies: queue.SimpleQueue[tuple[list[bytes], bytes]] = queue.SimpleQueue()
        # Sockets belong to one thread; the model's thread wakes this one by a pipe.
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._forms: dict[bytes, Form] = {}
        self._closing = False

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def run(self) -> None:
        """Serve until ``close``."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        while not self._closing:
            ready = dict(poller.poll())
            if self._woken in ready:
                os.read(self._woken, 4096)
            self._send()
            if self._socket in ready:
                self._take()
        self._send()
        self._context.destroy(linger=500)

    def close(self) -> None:
        """End ``run``, after the replies that are ready."""
        self._closing = True
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it is woken already
            os.write(self._wake, b"!")

    def _send(self) -> None:
        while not self._replies.empty():
            envelope, reply = self._replies.get()
            try:
                self._socket.send_multipart([*envelope, reply], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                log.warning("A reply was dropped: %s", error)

    def _take(self) -> None:
        parts = self._socket.recv_multipart()
        # The client's identity, the number of the request where a REQ socket counts them (REQ_CORRELATE), and the empty
        # frame that it sends before a message.
        if len(parts) < 2 or len(parts) > 4 or (len(parts) > 2 and parts[-2]):
            return
        envelope, message, client = parts[:-1], parts[-1], parts[0]
        form = self._forms.get(client, Form.FLAT)
        try:
            request, written = unpack(message)
            form = self._form_of(client, request, written)
            self._service.authorise(request.get("api_token"))
            self._answer(envelope, request, form, len(message))
        except Exception as error:  # whatever a stranger sends, the others are served
            self._reply(envelope, {"error": explained(error)}, form)

    def _form_of(self, client: bytes, request: dict[str, Any], written: Form | None) -> Form:
        """How the client writes; a request without arrays is written as those before it."""
        if written is None:
            return self._forms.get(client, Form.FLAT)
        data = request.get("data")
        form = Form.FLAT if written is Form.NESTED and isinstance(data, dict) and "observation" not in data else written
        self._forms.pop(client, None)
        self._forms[client] = form
        if len(self._forms) > MAX_CLIENTS:
            del self._forms[next(iter(self._forms))]
        return form

    def _answer(self, envelope: list[bytes], request: dict[str, Any], form: Form, size: int) -> None:
        match request.get("endpoint", "get_action"):
            case "ping":
                self._reply(envelope, PING, form)
            case "reset":
                self._reply(envelope, {}, form)
            case "get_modality_config":
                self._reply(envelope, self._service.modality_config(nested=form is not Form.FLAT), form)
            case "get_action":
                data = request.get("data")
                observation, options = data, None
                if isinstance(data, dict) and "observation" in data:
                    observation, options = data["observation"], data.get("options")
                future = self._service.act(("zmq", envelope[0]), size, observation, options)
                future.add_done_callback(lambda done: self._done(envelope, done, form))
            case other:
                raise RequestError(f"There is no endpoint {str(other)[:100]!r}; there are {', '.join(ENDPOINTS)}.")

    def _done(self, envelope: list[bytes], done: Future[Any], form: Form) -> None:
        error = done.exception()
        self._reply(envelope, done.result() if error is None else {"error": explained(error)}, form)

    def _reply(self, envelope: list[bytes], reply: object, form: Form) -> None:
        self._replies.put((envelope, pack(reply, form)))
        self._notify()
