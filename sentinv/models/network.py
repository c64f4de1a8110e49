"""Why the hub is out of reach, where the surroundings are to blame."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@contextmanager
def without_surroundings() -> Iterator[None]:
    """Hide proxies and certificates for a while: a client that can't be made with them reads the cache no less without."""
    hidden = {name: os.environ.pop(name) for name in (*_PROXIES, *_CERTIFICATES) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def why_out_of_reach(error: BaseException) -> str:
    """Say what is wrong with proxy or certificates, of an error that a request ended in; "" if neither seems to be.

    Values of variables are shown without name and password.
    """
    for name in _CERTIFICATES:
        value = os.environ.get(name)
        if value and not Path(value).exists():
            return f"{name} names {value}, which does not exist"
    text = " ".join(str(error).split())
    if "certificate" in text.lower() and "verify" in text.lower():
        return "its certificate is not trusted here: SSL_CERT_FILE can name the certificates of your network"
    proxy = next(((name, os.environ[name]) for name in _PROXIES if os.environ.get(name)), None)
    if proxy is None:
        return ""
    told = f"{proxy[0]}={re.sub(r'//[^/@]*@', '//', proxy[1])}"
    if "socksio" in text or "SOCKS" in text:
        return f"the proxy {told} needs one more package: pip install 'httpx[socks]'"
    if isinstance(error, ValueError) or "proxy" in f"{type(error).__name__} {text}".lower():
        return f"the proxy {told} can't be used"
    return f"perhaps because of the proxy {told}"
