"""The server that is put under load, and the model that it serves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from pytest_autotune.serving.fetch import NoAnswer, get
from pytest_autotune.system.listeners import Listening, Placed

_MODELS: Final = "/v1/models"
_LIST_SECONDS: Final = 10.0
#: Routers of hundreds of models list less.
_LIST_BYTES: Final = 2 << 20
#: No name is longer, not even a path.
_MAX_NAME: Final = 1000
#: Flags that name the model, or a file that may.
_RENAMING: Final = re.compile(r"--?(served.*model.*name|model[-_]name|[^=]*alias[^=]*|config)(=|$)")
#: Servers that list the file that they have loaded, whatever model that is.
_OWN_NAME: Final = re.compile(r"llama[-_.]?cpp|llama-server|llamafile")


class Target(Protocol):
    """A server to put under load: :class:`pytest_autotune.serving.server.InferenceServer`."""

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that requests must carry."""

    @property
    def gpus(self) -> int:
        """World size."""

    def check_alive(self) -> None:
        """Raise an error if the server has ended."""


def placed(target: Target) -> Placed:
    """Return ``target``, or what its address tells."""
    return target if isinstance(target, Placed) else Address(target.base_url)


@dataclass(frozen=True)
class Address(Listening):
    """A server of which only the address is known."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 1

    def check_alive(self) -> None:
        """Do nothing, as this cannot be known of an address."""


def listed_models(base_url: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the models that the server lists, adapters included; empty where it lists none.

    Empty, too, for a llama.cpp with one model: it lists a file, and ignores the name in a request.
    Raises :class:`NoAnswer` where the server does not answer in full, and not at once.
    """
    try:
        answer = get(base_url + _MODELS, headers, seconds=_LIST_SECONDS, limit=_LIST_BYTES)
    except NoAnswer as error:
        if error.refused:
            # The requests will tell why.
            return ()
        raise NoAnswer(f"GET {base_url}{_MODELS}: the server {error}") from None
    try:
        models = json.loads(answer.body)["data"] if answer.ok else []
        owners = [model.get("owned_by") for model in models]
        ids = (model["id"] for model in models)
        names = tuple(i for i in ids if isinstance(i, str) and 0 < len(i) <= _MAX_NAME)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ()
    return () if owners == ["llamacpp"] else names


def served_name(wanted: str, listed: Sequence[str]) -> str | None:
    """Return the name under which a server that lists models has ``wanted``, None if it has not.

    ``BASE:ADAPTER`` is SGLang's way to ask for an adapter. A model without its organization, or
    in a folder, is the one that is listed with it, and so is one without Ollama's ``:latest``.
    """
    if wanted in listed or wanted.rpartition(":")[0] in listed:
        return wanted
    alike = [name for name in listed if _same(wanted, name.removesuffix(":latest"))]
    return alike[0] if len(alike) == 1 else None


def renames_model(command: Sequence[str]) -> bool:
    """Return whether a server's command gives its model another name, or may do so by itself.

    The name of its image may be one of the words.
    """
    # A shell's command is one word.
    words = [word for part in command for word in part.lower().split()]
    return any(_RENAMING.match(word) or _OWN_NAME.search(word) for word in words)


def _same(one: str, other: str) -> bool:
    parts = [name.rstrip("/").split("/") for name in (one, other)]
    # Of two organizations' models with one name, neither is the other.
    free = any(len(split) == 1 or not split[0].strip(".~") for split in parts)
    return free and parts[0][-1].lower() == parts[1][-1].lower()
