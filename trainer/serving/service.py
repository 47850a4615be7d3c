"""The endpoints, whatever a request comes by: ``ping``, ``get_action``, ``get_modality_config`` and ``reset``."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.data_config import DataConfig
from trainer.data.modality_config import to_upstream
from trainer.errors import PippaError
from trainer.gr00t.previous_chunk import PreviousChunk
from trainer.serving.arrays import RequestError
from trainer.serving.fair_queue import FairQueue
from trainer.serving.observation import checked, flat, is_nested, nested_actions, previous_chunk, without_batch
from trainer.serving.wire import ModalityConfig

if TYPE_CHECKING:
    from trainer.gr00t.policy import Policy

log = logging.getLogger(__name__)

ENDPOINTS = ("ping", "get_action", "get_modality_config", "reset")
PING = {"status": "ok", "message": "Server is running"}


class Acting(Protocol):
    """What is served: ``trainer.gr00t.policy.Policy``."""

    data_config: DataConfig

    def get_action(
        self, observation: Mapping[str, Any], *, previous: PreviousChunk | None = None
    ) -> dict[str, NDArray[Any]]:
        """``action.<key>`` [H, D] for a flat observation, with a batch axis where that has one."""
        ...


class Service:
    """One policy, for all clients."""

    def __init__(self, policy: Acting, token: str | None = None) -> None:
        self.policy = policy
        self.turns = FairQueue()
        self._token = token

    def authorise(self, given: object) -> None:
        """Raise ``RequestError`` where a token is required, and ``given`` is another."""
        if self._token is None:
            return
        offered = given if isinstance(given, str) else ""
        if not hmac.compare_digest(offered.encode("utf-8", "replace"), self._token.encode()):
            raise RequestError(
                "Unauthorized: this server requires its token (api_token, or Authorization: Bearer).", 401
            )

    def act(self, client: Hashable, size: int, observation: object, options: object = None) -> Future[Any]:
        """The reply to ``get_action``, once it is the turn of ``client``. Raises ``RequestError``."""
        if not isinstance(observation, dict):
            raise RequestError("get_action needs an observation, a map of keys to arrays.")
        nested = is_nested(observation)
        given, samples = checked(flat(observation) if nested else observation, self.policy.data_config)
        alone = nested and samples == 1  # a policy without states can't tell a batch
        if nested and samples is None:
            raise RequestError("A nested observation has a batch axis: images [B, 1, H, W, 3], states [B, 1, D].")
        if alone:
            given = without_batch(given)

        previous = previous_chunk(options, alone=alone)

        def predict() -> Any:
            actions = self.policy.get_action(given, previous=previous)
            if not all(np.isfinite(values).all() for values in actions.values()):
                raise RequestError(
                    "The policy's actions for this are not finite numbers, and are not sent. Are the states, and what "
                    "was answered before, in the dataset's units?"
                )
            return nested_actions(actions, batched=not alone) if nested else actions

        return self.turns.ask(client, size, predict)

    def modality_config(self, *, nested: bool) -> dict[str, ModalityConfig]:
        """Steps and keys by modality; the keys of flat observations begin with the modality's name."""
        found = {}
        for modality, values in to_upstream(self.policy.data_config).items():
            keys = values["modality_keys"]
            named = keys if nested or modality == "language" else [f"{modality}.{key}" for key in keys]
            found[modality] = ModalityConfig({**values, "modality_keys": named})
        return found


def explained(error: BaseException) -> str:
    """What a client gets for ``error``. What a client did not cause is logged in full and reported in short."""
    if isinstance(error, PippaError):
        return f"{error.message} {error.hint}".strip()
    if isinstance(error, RequestError):
        return str(error)
    log.error("A request failed.", exc_info=error)
    return f"The server failed: {type(error).__name__}. Its log says more."


def warm_up(policy: Policy) -> None:
    """Predict once from black images: the first prediction takes longest."""
    policy.get_action(policy.example())
