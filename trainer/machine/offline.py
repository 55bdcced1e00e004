"""Is there a network to the hub at all? Where its name does not resolve, nothing is tried six times, only the cache."""

from __future__ import annotations

import functools
import socket
import time
from urllib.parse import urlsplit
from urllib.request import getproxies

from galore.trainer.machine.signals import to_stderr

SECOND_TRY = 1.0  # seconds after a first failure: a resolver may stumble


@functools.cache
def spare_retries() -> None:
    """Put the hub's libraries into their offline mode, before a name is used, if they could only wait in vain.

    They retry every file of a model for half a minute, which helps on a slow network. Without any, cached files are
    found at once this way, and the lack of others is told at once. A proxy resolves names itself: nothing is known
    then.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or host is None or getproxies().keys() & {"http", "https", "all"} or _resolves(host):
        return
    constants.HF_HUB_OFFLINE = True
    to_stderr(f"no network: {host} does not resolve; of the hub there is what has been cached")


def _resolves(host: str) -> bool:
    for wait in (SECOND_TRY, 0.0):
        try:
            socket.getaddrinfo(host, 443)
        except socket.gaierror:
            time.sleep(wait)
        else:
            return True
    return False
