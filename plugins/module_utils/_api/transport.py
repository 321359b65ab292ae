# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Send one HTTP request to Backblaze and return its answer. Only this file imports requests.

A transport returns an answer as it arrived, complete or not. It repeats nothing, follows nothing and judges nothing. It
makes sure that credentials go only to https or to a loopback address, with no redirect, no netrc, and no proxy for
plain http. And it uses a connection again only if the exchange before is certainly over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import platform
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

    REQUESTS_IMPORT_ERROR = ""
except ImportError as exc:
    REQUESTS_IMPORT_ERROR = str(exc)
    AuthBase = HTTPAdapter = object  # type: ignore[assignment,misc]  # never used then

#: The bytes of a body that are read. A thousand members are about half a megabyte.
MAX_BODY = 4 * 1024 * 1024
_CHUNK = 64 * 1024
# The characters of a refused URL that a message shows.
_SHOWN = 200
# A connection is made quickly or never. An answer may take longer: creating an account is work for the service.
_MAX_CONNECT_SECONDS = 15.0
_CHECK_REALM = "Check the realm and the proxy settings of the environment."


@dataclasses.dataclass(frozen=True)
class Answer:
    """Hold an answer. ``complete`` is false if the body was cut short; ``body`` then has the bytes that arrived.

    asked_with: the credential of the request, in each form that the request had. No message may repeat it.
    rest: the bytes that had arrived behind the end of the body, which no request asked for.
    """

    status: int
    headers: t.Mapping[str, str]
    body: bytes = dataclasses.field(repr=False)
    complete: bool = True
    asked_with: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    rest: bytes = dataclasses.field(default=b"", repr=False)


class TokenAuth(AuthBase):
    """Send the raw token as Authorization.

    An auth object, because requests replaces a session header by the entry of the host in ~/.netrc.
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
    """Return the credential of a request: the token, or the key in clear and as HTTP Basic encodes it."""
    # A token is the whole header. The text of Basic follows that word.
    sent = str(request.headers.get("Authorization", "")).rpartition(" ")[2]
    return tuple(filter(None, (sent, getattr(auth, "password", ""))))


def _host(url: str) -> tuple[str, str]:
    """Return (scheme, host) of a plain URL. Raises ValueError for a URL that two parsers could read differently."""
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
    """Return a base URL that may get a credential, without its last slash: https, or a loopback address."""
    try:
        scheme = _host(url)[0]
        if scheme == "https" or (scheme == "http" and is_loopback(url)):
            return t.cast(str, url).rstrip("/")
        reason = "credentials go only over https, or to a loopback address"
    except ValueError as exc:
        reason = str(exc)
    raise error(f"{what} {str(url)[:_SHOWN]!r} is refused: {reason}. No credential was sent there.")


# The domains of Backblaze. A realm in one of them may name a service in another one.
_BACKBLAZE = ("backblazeb2.com", "backblaze.com", "backblaze.net")


def _same_owner(host: str, realm: str) -> bool:
    """Tell whether a host is the realm, below the realm, or a host of Backblaze like the realm."""
    ours = tuple(f".{domain}" for domain in _BACKBLAZE)
    return host == realm or host.endswith(f".{realm}") or (host.endswith(ours) and realm.endswith(ours))


def check_service_url(url: t.Any, realm: str, what: str) -> str:
    """Return a base URL that the service named. It must pass check_url and have the same owner as the realm.

    A server that answers for the realm must not send the token to another owner. A realm on this machine, which is a
    test or a tunnel, must not send the token to another machine.
    """
    checked = check_url(url, what, AnswerError)
    same = is_loopback(checked) if is_loopback(realm) else _same_owner(_host(checked)[1], _host(realm)[1])
    if not same:
        raise AnswerError(
            f"{what} {checked[:_SHOWN]!r} is refused: it does not belong to the realm {realm}. "
            "No credential was sent there."
        )
    return checked


def _causes(exc: BaseException) -> list[BaseException]:
    """Return an error and its causes, outermost first: requests wraps urllib3, which wraps the error of the socket."""
    causes: list[BaseException] = []
    current: t.Optional[BaseException] = exc
    while current is not None and current not in causes:
        causes.append(current)
        nested = [arg for arg in (getattr(current, "reason", None), *current.args) if isinstance(arg, BaseException)]
        # Not the context: that may be the error of an earlier request.
        current = nested[0] if nested else current.__cause__
    return causes


def _reason(causes: list[BaseException]) -> str:
    """Return why a connection failed, in a few words. Never the text of requests, which may quote headers."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.strerror:
            return str(cause.strerror)
    return type(causes[-1]).__name__


def _unreadable(url: str, exc: Exception) -> NetworkError:
    """Return the error of an answer whose headers the HTTP library refuses."""
    happened = f"The answer of {urlsplit(url).netloc} is not valid HTTP ({type(exc).__name__})."
    return NetworkError(happened, sent=True, hopeless=True, remedy=_CHECK_REALM)


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undo a compression that no request asks for, but a proxy may use, up to the limit of a body."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        # 32: zlib or gzip, as the header of the data says.
        return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body, MAX_BODY)
    except zlib.error:
        return body


def _strict(pool: t.Any) -> t.Any:
    """Return a pool class of urllib3 whose connections read responses by ``Response``."""
    connection = pool.ConnectionCls
    if issubclass(connection.response_class, Response):
        return pool
    return type(
        pool.__name__,
        (pool,),
        {"ConnectionCls": type(connection.__name__, (connection,), {"response_class": Response})},
    )


class _Adapter(HTTPAdapter):
    """Make every pool strict, also a pool through a proxy."""

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
    """Send requests over connections that are kept alive. Safe to use from many threads.

    timeout: the seconds from a request to the last byte of its answer.
    verify: true, false, or the path of a CA bundle, as in requests.
    """

    def __init__(self, *, timeout: float, verify: t.Union[bool, str], connections: int = 1) -> None:
        self._timeout = timeout
        # Given with each request: REQUESTS_CA_BUNDLE wins over the setting of a session.
        if verify is True:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self._verify = verify
        self._session = requests.Session()
        python = f"Python/{platform.python_version()} requests/{requests.__version__}"
        self._session.headers["User-Agent"] = f"community.backblaze/{VERSION} {python}"
        self._session.headers["Accept"] = "application/json"
        # Uncompressed, so that every byte of an answer that was cut short can be read.
        self._session.headers["Accept-Encoding"] = "identity"
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
    ) -> Answer:
        """Send one request, once.

        is_sound: looks at the answer before any other code, and tells whether the answer is the one that was asked for.
        Only then is the connection used again: after another answer, the right answer may still be on its way.

        Raises NetworkError if no answer came. Its ``sent`` is false only if the request cannot have reached the
        service.
        """
        if query:
            url = f"{url}?{urlencode(query)}"
        prepared = self._prepare(method, url, auth, body)
        response = self._response(url, prepared)
        usable = False
        try:
            answer, certain = self._read(response, _credential_of(prepared, auth))
            usable = is_sound(answer) and certain
            return answer
        finally:
            if usable:
                response.raw.release_conn()
            else:
                response.close()

    def _prepare(self, method: str, url: str, auth: t.Any, body: t.Optional[bytes]) -> t.Any:
        """Return a request that is ready to be sent."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            prepared = self._session.prepare_request(
                requests.Request(method, url, headers=headers, data=body, auth=auth)
            )
            # requests does not check the headers of an auth object.
            for header in prepared.headers.items():
                check_header_validity(header)
        except (requests.RequestException, ValueError):
            happened = "The request could not be made: its URL or a header is not valid."
            raise NetworkError(happened, sent=False, hopeless=True, remedy="Check the credentials.") from None
        return prepared

    def _response(self, url: str, prepared: t.Any) -> t.Any:
        """Send a request. Return its response, of which only the head was read."""
        # A loopback address is reached directly: a proxy would take the credential off this machine in clear.
        proxies = {} if is_loopback(url.partition("?")[0]) else get_environ_proxies(url)
        try:
            # By the adapter: the session itself reads the whole body of a redirect, however long, and throws it away.
            return self._session.get_adapter(url).send(
                prepared,
                timeout=(min(self._timeout, _MAX_CONNECT_SECONDS), self._timeout),
                verify=self._verify,
                proxies=proxies,
                stream=True,
            )
        except requests.exceptions.InvalidSchema:
            # The URL itself was checked, so a proxy is the only reason for this.
            raise NetworkError(
                "The environment names a SOCKS proxy, and the Python library PySocks is not installed.",
                sent=False,
                hopeless=True,
                remedy="Install PySocks: pip install 'requests[socks]'. "
                "Or remove the proxy from the environment (ALL_PROXY, HTTPS_PROXY).",
            ) from None
        except requests.RequestException as exc:
            raise self._network_error(url, exc) from None
        except OSError as exc:
            # The certificates are read before a connection is made.
            reason = exc.strerror or "it is missing or damaged"
            raise NetworkError(
                f"The certificates of certification authorities cannot be read from {self._verify} ({reason}).",
                sent=False,
                hopeless=True,
                remedy="Check ca_path, and REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE in the environment.",
            ) from None
        except ValueError as exc:
            # Raised about the answer, whatever its headers hold.
            raise _unreadable(url, exc) from None

    def _read(self, response: t.Any, asked_with: tuple[str, ...]) -> tuple[Answer, bool]:
        """Read a body up to its end, its limit or its deadline. Return the answer, and whether its end is certain."""
        # Not by urllib3, which gives the connection to the next thread as soon as it sees the end.
        original: Response = response.raw._original_response
        body = bytearray()
        whole = False
        with contextlib.suppress(HTTPException, OSError, ValueError):
            while len(body) <= MAX_BODY and not whole:
                part = original.read1(_CHUNK)
                whole = not part
                body += part
        rest = original.end()
        declared = response.headers.get("Content-Length", "")
        # A number of thousands of digits is more than Python reads.
        complete = whole and not (declared.isdecimal() and len(body) < int(declared[:20]))
        certain = complete and original.is_certain(len(body))
        decoded = _decoded(bytes(body), response.headers.get("Content-Encoding", ""))
        return Answer(response.status_code, response.headers, decoded, complete, asked_with, rest), certain

    def _network_error(self, url: str, exc: Exception) -> NetworkError:
        """Return the error of a request without an answer."""
        host = urlsplit(url).netloc
        causes = _causes(exc)
        reason = _reason(causes)
        # After any other error the request may have left, also after an error of a proxy: urllib3 forgets that a tunnel
        # stood when the tunnel breaks.
        sent = not any(
            isinstance(cause, (NewConnectionError, ConnectTimeoutError))
            or (isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"))
            for cause in causes
        )
        hopeless = False
        if isinstance(exc, requests.exceptions.SSLError):
            # An error of TLS does not say whether the request has left. A refused certificate stays refused.
            happened = f"The TLS connection to {host} failed ({reason})."
            sent, hopeless = True, "CERTIFICATE_VERIFY_FAILED" in repr(exc.args)
            remedy = "Check ca_path, validate_certs and this machine's clock."
        elif isinstance(exc, requests.exceptions.ProxyError):
            happened = f"The proxy for {host} does not answer ({reason})."
            remedy = "Check the proxy settings of the environment."
        elif not sent:
            happened = f"{host} cannot be reached ({reason})."
            remedy = "Check the network, the realm and the proxy settings."
        elif isinstance(exc, requests.exceptions.Timeout):
            happened = f"{host} did not answer within {self._timeout:g} seconds."
            remedy = "Run again, or raise api_timeout."
        elif isinstance(exc, requests.exceptions.InvalidURL):
            # A URL of the service or of a proxy. It is checked before a connection is made.
            happened, remedy = "The request could not be made: a URL is not valid.", _CHECK_REALM
            sent, hopeless = False, True
        elif isinstance(exc, ValueError):
            return _unreadable(url, exc)
        else:
            happened, remedy = f"The connection to {host} broke ({reason}).", "Run again."
        return NetworkError(happened, sent=sent, hopeless=hopeless, remedy=remedy)
