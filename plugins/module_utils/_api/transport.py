# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One HTTP exchange with Backblaze: the only importer of requests.

A transport sends one request and brings back whatever arrived, cut short or not; it never repeats, follows or judges.
That is the client's part. What it guards is where credentials go (https or a loopback address, no redirects, no netrc,
no proxy for plain http), and that no connection is used again of which it is not certain that the exchange is over.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import os
import platform
import traceback
import typing as t
import zlib
from http.client import HTTPException
from urllib.parse import urlencode, urlsplit

from ansible_collections.community.backblaze.plugins.module_utils._api.response import Response
from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, NetworkError, OptionError
from ansible_collections.community.backblaze.plugins.module_utils._version import VERSION

try:
    import requests
    from requests.adapters import HTTPAdapter
    from requests.auth import AuthBase, HTTPBasicAuth
    from requests.utils import check_header_validity, get_environ_proxies
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
except ImportError:
    REQUESTS_IMPORT_ERROR: t.Optional[str] = traceback.format_exc()
    AuthBase = HTTPAdapter = object  # type: ignore[assignment,misc]  # never used then
else:
    REQUESTS_IMPORT_ERROR = None

#: A thousand members are about half a megabyte; far beyond that the other side is not the Partner API.
MAX_BODY = 4 * 1024 * 1024
_CHUNK = 64 * 1024
# So much of a URL that is refused is shown.
_SHOWN = 200
_MOST_DIGITS = 20
# Connecting is quick or hopeless; an answer may take its time (creating an account is work for the service).
_MAX_CONNECT_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back. ``complete`` is false where the body was cut short; what arrived of it is in ``body`` all the same.

    asked_with: the credential that the request carried, in the forms that it had there; what is shown of an answer must not repeat it.
    rest: what had arrived behind the end of the body, and answers no request of ours.
    """

    status: int
    headers: t.Mapping[str, str]
    body: bytes = dataclasses.field(repr=False)
    complete: bool = True
    asked_with: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    rest: bytes = dataclasses.field(default=b"", repr=False)


class TokenAuth(AuthBase):
    """The raw token as Authorization.

    As an auth object and not as a session header, because requests replaces such a header by what ~/.netrc holds for the host.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: t.Any) -> t.Any:
        request.headers["Authorization"] = self._token
        return request


def basic_auth(key_id: str, key: str) -> t.Any:
    """Return the auth object for HTTP Basic."""
    return HTTPBasicAuth(key_id, key)


def _credential_of(request: t.Any, auth: t.Any) -> tuple[str, ...]:
    """Return what a request says of its credential: the token, or the key in clear and as HTTP Basic has it."""
    # A token stands there alone, Basic's text behind that word.
    sent = str(request.headers.get("Authorization", "")).rpartition(" ")[2]
    return tuple(filter(None, (sent, getattr(auth, "password", ""))))


def _host(url: str) -> tuple[str, str]:
    """Return (scheme, host) of a plain URL, or raise ValueError for anything that parsers could read in two ways."""
    if (
        not isinstance(url, str)
        or not url.isascii()
        or not url.isprintable()
        or any(character in url for character in " \\@?#")
    ):
        raise ValueError("it is not a plain URL")
    parts = urlsplit(url)
    if not parts.hostname or (parts.port is not None and not 0 < parts.port < 65536):
        raise ValueError("it names no host or no valid port")
    return parts.scheme.lower(), parts.hostname.lower()


def is_loopback(url: str) -> bool:
    """Tell whether a URL stays on this machine."""
    host = _host(url)[1]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: t.Any, what: str, error: type[t.Union[OptionError, AnswerError]] = OptionError) -> str:
    """Return a base URL that a credential may be sent to, without its last slash: https, or a loopback address."""
    try:
        scheme = _host(url)[0]
        if scheme == "https" or (scheme == "http" and is_loopback(url)):
            return t.cast(str, url).rstrip("/")
        reason = "credentials go only over https, or to a loopback address"
    except ValueError as exc:
        reason = str(exc)
    raise error(f"{what} {str(url)[:_SHOWN]!r} is refused: {reason}. No credential was sent there.")


# Backblaze's own domains, any of which a realm of Backblaze may name.
_BACKBLAZE = ("backblazeb2.com", "backblaze.com", "backblaze.net")


def _same_owner(host: str, realm: str) -> bool:
    """Tell whether a host is the realm's own, below it, or like it one of Backblaze's."""
    ours = tuple(f".{domain}" for domain in _BACKBLAZE)
    return host == realm or host.endswith(f".{realm}") or (host.endswith(ours) and realm.endswith(ours))


def check_service_url(url: t.Any, realm: str, what: str) -> str:
    """Return a base URL that the service named itself: as check_url, and of the same owner as the realm.

    Whoever answers for the realm must not send the token to somebody else; a realm on this machine, a test or a tunnel, not out of it.
    """
    checked = check_url(url, what, AnswerError)
    same = is_loopback(checked) if is_loopback(realm) else _same_owner(_host(checked)[1], _host(realm)[1])
    if not same:
        raise AnswerError(
            f"{what} {checked[:_SHOWN]!r} is refused: it does not belong to the realm {realm}. No credential was sent there."
        )
    return checked


def _causes(exc: BaseException) -> list[BaseException]:
    """Return an error and what it was made of, outermost first: requests wraps urllib3 wraps the socket's own."""
    causes: list[BaseException] = []
    current: t.Optional[BaseException] = exc
    while current is not None and current not in causes:
        causes.append(current)
        nested = [arg for arg in (getattr(current, "reason", None), *current.args) if isinstance(arg, BaseException)]
        # Not its context, which may be what became of an earlier request.
        current = nested[0] if nested else current.__cause__
    return causes


def _reason(causes: list[BaseException]) -> str:
    """Say in a few words why a connection failed; never the text of requests itself, which may quote headers."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.strerror:
            return str(cause.strerror)
    return type(causes[-1]).__name__


def _unreadable(url: str, exc: Exception) -> NetworkError:
    """Return the error of an answer that came and whose headers no HTTP library takes."""
    return NetworkError(
        f"The answer of {urlsplit(url).netloc} is not HTTP as it should be ({type(exc).__name__}).",
        sent=True,
        hopeless=True,
        remedy="Check the realm and the proxy settings of the environment.",
    )


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undo a compression that was not asked for (a proxy may do it), as far as the body goes and no further than its limit."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        # 32: zlib or gzip, whichever the header of the data says.
        return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body, MAX_BODY)
    except zlib.error:
        return body


@functools.lru_cache(maxsize=None)
def _strict(pool: t.Any) -> t.Any:
    """Return a pool class of urllib3 whose connections read responses as ``Response`` does."""
    connection = pool.ConnectionCls
    if issubclass(connection.response_class, Response):
        return pool
    return type(
        pool.__name__,
        (pool,),
        {"ConnectionCls": type(connection.__name__, (connection,), {"response_class": Response})},
    )


class _Adapter(HTTPAdapter):
    """An adapter whose pools, those through a proxy as well, are strict."""

    def init_poolmanager(self, *args: t.Any, **options: t.Any) -> None:
        """Make the pools for direct connections."""
        super().init_poolmanager(*args, **options)
        self._make_strict(self.poolmanager)

    def proxy_manager_for(self, *args: t.Any, **options: t.Any) -> t.Any:
        """Return the pools for connections through a proxy."""
        return self._make_strict(super().proxy_manager_for(*args, **options))

    @staticmethod
    def _make_strict(manager: t.Any) -> t.Any:
        manager.pool_classes_by_scheme = {
            scheme: _strict(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }
        return manager


class Transport:
    """A pool of kept-alive connections. Safe to use from many threads.

    timeout: seconds in which an answer has to be there, from the request being sent to the last byte of the body.
    verify: true, false, or the path of a CA bundle, as requests means it.
    """

    def __init__(self, *, timeout: float, verify: t.Union[bool, str], connections: int = 1) -> None:
        self._timeout = timeout
        # Given with every request: a session's own setting loses against REQUESTS_CA_BUNDLE.
        if verify is True:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self._verify = verify
        self._session = requests.Session()
        self._session.headers.update(
            {
                "User-Agent": f"community.backblaze/{VERSION} Python/{platform.python_version()} requests/{requests.__version__}",
                "Accept": "application/json",
                # Uncompressed, so that of an answer cut short every byte that arrived can be read.
                "Accept-Encoding": "identity",
            }
        )
        adapter = _Adapter(pool_connections=4, pool_maxsize=connections, max_retries=0)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        auth: t.Any,
        query: t.Optional[t.Mapping[str, t.Any]] = None,
        body: t.Optional[bytes] = None,
        is_sound: t.Callable[[Answer], bool] = lambda answer: answer.status == 200,
        most: int = MAX_BODY,
    ) -> Answer:
        """Send one request, once.

        most: bytes of a body beyond which no more of it is read.

        is_sound: looks at the answer before anything else does, and tells whether it is the one that this request asks for. Only then is
        the connection used again: after any other answer the one that was asked for may still be on its way.

        Raises NetworkError where nothing came back, with ``sent`` false only if the request cannot have left.
        """
        if query:
            url = f"{url}?{urlencode(query)}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            prepared = self._session.prepare_request(
                requests.Request(method, url, headers=headers, data=body, auth=auth)
            )
            # What an auth object adds requests does not look at.
            for header in prepared.headers.items():
                check_header_validity(header)
        except (requests.RequestException, ValueError):
            # A URL or a header that cannot be one: nothing has left.
            raise NetworkError(
                "The request could not be made: its URL or a header is not valid.",
                sent=False,
                hopeless=True,
                remedy="Check the credentials.",
            ) from None
        # A loopback address is reached directly: a proxy would carry the credential off this machine in clear.
        proxies = {} if is_loopback(url.partition("?")[0]) else get_environ_proxies(url)
        try:
            # By the adapter, for the session itself looks at where a redirect leads even where it is not to follow it: it reads the whole
            # body for that, however long it is, and throws it away.
            response = self._session.get_adapter(url).send(
                prepared,
                timeout=(min(self._timeout, _MAX_CONNECT_SECONDS), self._timeout),
                verify=self._verify,
                proxies=proxies,
                stream=True,
            )
        except requests.exceptions.InvalidSchema:
            # Raised before a connection is made, and for this reason only: the URL itself was checked.
            raise NetworkError(
                "The environment names a SOCKS proxy, and the Python library PySocks, which requests needs for that, is not installed.",
                sent=False,
                hopeless=True,
                remedy="Install it: pip install 'requests[socks]'. Or take the proxy out of the environment (ALL_PROXY, HTTPS_PROXY).",
            ) from None
        except requests.RequestException as exc:
            raise self._network_error(url, exc) from None
        except OSError as exc:
            # Certificates that cannot be read, which is seen before a connection is made.
            raise NetworkError(
                f"The certificates of certification authorities cannot be read from {self._verify} ({exc.strerror or 'it is missing or damaged'}).",
                sent=False,
                hopeless=True,
                remedy="Check ca_path, and REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE in the environment.",
            ) from None
        except ValueError as exc:
            # What is raised about the answer, whatever its headers hold.
            raise _unreadable(url, exc) from None
        usable = False
        try:
            answer, certain = self._read(response, _credential_of(prepared, auth), most)
            usable = is_sound(answer) and certain
            return answer
        finally:
            if usable:
                response.raw.release_conn()
            else:
                response.close()

    def _read(self, response: t.Any, asked_with: tuple[str, ...], most: int) -> tuple[Answer, bool]:
        """Read the body up to its end, its limit or its time, and keep what arrived; tell whether its end is certain."""
        # Not by urllib3, which gives the connection to the next thread as soon as it sees the end.
        original: Response = response.raw._original_response
        parts: list[bytes] = []
        size = 0
        whole = False
        try:
            while size <= most:
                part = original.read1(_CHUNK)
                if not part:
                    whole = True
                    break
                parts.append(part)
                size += len(part)
        except (HTTPException, OSError, ValueError):
            whole = False
        rest = original.end()
        declared = response.headers.get("Content-Length", "")
        # A number of thousands of digits is more than Python reads.
        complete = whole and not (declared.isdecimal() and size < int(declared[:_MOST_DIGITS]))
        body = _decoded(b"".join(parts), response.headers.get("Content-Encoding", ""))
        return Answer(
            response.status_code, response.headers, body, complete, asked_with, rest
        ), complete and original.is_certain(size)

    def _network_error(self, url: str, exc: Exception) -> NetworkError:
        host = urlsplit(url).netloc
        causes = _causes(exc)
        reason = _reason(causes)
        if isinstance(exc, requests.exceptions.SSLError):
            # Nothing says at which point TLS failed, so it counts as sent; a certificate that is refused stays refused.
            return NetworkError(
                f"The TLS connection to {host} failed ({reason}).",
                sent=True,
                hopeless="CERTIFICATE_VERIFY_FAILED" in repr(exc.args),
                remedy="Check ca_path, validate_certs and this machine's clock.",
            )
        # Any error beside these may have come after the request had left, also what is called one of the proxy: urllib3 forgets that a tunnel
        # stood when that breaks.
        unsent = any(isinstance(cause, (NewConnectionError, ConnectTimeoutError)) for cause in causes) or any(
            isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed") for cause in causes
        )
        if isinstance(exc, requests.exceptions.ProxyError):
            return NetworkError(
                f"The proxy for {host} does not answer ({reason}).",
                sent=not unsent,
                remedy="Check the proxy settings of the environment.",
            )
        if unsent:
            return NetworkError(
                f"{host} cannot be reached ({reason}).",
                sent=False,
                remedy="Check the network, the realm and the proxy settings.",
            )
        if isinstance(exc, requests.exceptions.Timeout):
            return NetworkError(
                f"{host} did not answer within {self._timeout:g} seconds.",
                sent=True,
                remedy="Run again, or raise api_timeout.",
            )
        if isinstance(exc, requests.exceptions.InvalidURL):
            # Of the service or of a proxy, and seen before a connection is made.
            return NetworkError(
                "The request could not be made: a URL is not valid.",
                sent=False,
                hopeless=True,
                remedy="Check the realm and the proxy settings.",
            )
        if isinstance(exc, ValueError):
            return _unreadable(url, exc)
        return NetworkError(f"The connection to {host} broke ({reason}).", sent=True, remedy="Run again.")
