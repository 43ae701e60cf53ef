"""Which proxy a request goes through, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.

aiohttp can read these itself, but then it also sends what ~/.netrc holds for a host, which would be a second secret on
the way to the hosts of files.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from tasks.core.errors import Failed, shown
from tasks.hub.options import Origin, origin_of


class Proxies:
    """The proxies of this process's environment, looked up once for each host.

    Args:
        by_scheme: address of the proxy for "http" and "https"; those of the environment unless given.
    """

    def __init__(self, by_scheme: Mapping[str, str] | None = None) -> None:
        self._by_scheme = getproxies() if by_scheme is None else by_scheme
        self._found: dict[Origin, URL | None] = {}

    def of(self, url: URL) -> URL | None:
        """Return the proxy for an address; None: ask its host directly.

        Raises:
            Failed: the environment names a proxy of a kind that this client cannot use.
        """
        origin = origin_of(url)
        if origin not in self._found:
            self._found[origin] = self._look_up(url.scheme, url.host or "")
        return self._found[origin]

    def _look_up(self, scheme: str, host: str) -> URL | None:
        named = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        if not named or _is_this_machine(host) or proxy_bypass(host):
            return None
        proxy = URL(named if "://" in named else f"http://{named}")
        if proxy.scheme not in ("http", "https"):
            raise Failed(
                f"{shown(host)}: the environment names a proxy of kind {shown(proxy.scheme)}; only http and https work"
            )
        return proxy


def _is_this_machine(host: str) -> bool:
    """No proxy reaches the loopback of the machine that asks it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
