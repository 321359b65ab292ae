# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where credentials go, and what comes back when the line is bad."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import socket
import ssl
import threading
import time
import traceback

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.util import parse_url

from ansible_collections.community.backblaze.plugins.module_utils._api.transport import (
    MAX_BODY,
    TokenAuth,
    Transport,
    basic_auth,
    check_service_url,
    check_url,
    is_loopback,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    AnswerError,
    B2Error,
    NetworkError,
    OptionError,
)
from ansible_collections.community.backblaze.tests.utils import standin as standin_module

AUTHORIZE = "/b2api/v3/b2_authorize_account"
GROUPS = "/b2api/v3/b2_list_groups"


@pytest.fixture
def transport():
    made = Transport(timeout=5.0, verify=True)
    yield made
    made.close()


@pytest.mark.parametrize(
    "url, base",
    [
        ("https://api.backblazeb2.com", "https://api.backblazeb2.com"),
        ("https://api.backblazeb2.com///", "https://api.backblazeb2.com"),
        ("HTTPS://Example.com:8443/base/", "HTTPS://Example.com:8443/base"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
    ],
)
def test_urls_that_credentials_may_go_to(url, base):
    assert check_url(url, "The realm") == base


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://0.0.0.0:80",
        "http://10.0.0.1",
        "ftp://127.0.0.1",
    ]
    + [
        "https://user:password@example.com",
        "https://127.0.0.1@example.com",
        "http://127.0.0.1\\@example.com",
        "https:\\\\example.com",
        "//example.com",
    ]
    + [
        "https://example.com\nX: y",
        "https://exa mple.com",
        "https://example.com\t",
        "http://localhost%00.example.com",
        "https://ex\u00e4mple.com",
    ]
    + [
        "https://example.com?a=b",
        "http://127.0.0.1#@example.com",
        "https://",
        "https://:443",
        "https://example.com:0",
        "https://example.com:99999",
    ]
    + [
        "https://example.com:x",
        "http://2130706433",
        "http://0x7f000001",
        "http://127.1",
        "http://[::1",
        "https://[",
        "",
        None,
        7,
        b"https://example.com",
        [],
    ],
)
def test_urls_that_are_refused(url):
    for error in (OptionError, AnswerError):
        with pytest.raises(error) as refused:
            check_url(url, "The realm", error)
        assert str(refused.value).startswith(f"The realm {str(url)[:200]!r} is refused: ")
        assert str(refused.value).isprintable()


@given(st.text(alphabet=":/@\\?#[]%.;&127localhost\u3002\t\r\n ", max_size=30).map("http://{}".format))
@example("http://127.0.0.1:80@evil")
@example("http://localhost\\@evil")
def test_plain_http_stays_on_this_machine_as_the_sending_library_reads_it(url):
    """Two parsers that disagree about the host have let many a credential out."""
    try:
        base = check_url(url, "The realm")
    except OptionError:
        return
    host = parse_url(base + AUTHORIZE).host
    assert host is not None
    assert host == "localhost" or host.startswith("127.") or host == "[::1]" or is_loopback(f"http://{host}")


def test_a_service_on_this_machine_cannot_send_its_caller_out():
    with pytest.raises(AnswerError):
        check_service_url("https://example.com", "http://127.0.0.1:1", "The groupsApiUrl")
    assert check_service_url("http://127.0.0.1:2", "http://127.0.0.1:1", "The groupsApiUrl") == "http://127.0.0.1:2"
    assert (
        check_service_url("https://groups.example.com/", "https://example.com", "The groupsApiUrl")
        == "https://groups.example.com"
    )


@pytest.mark.parametrize(
    "realm, url, same",
    [
        ("https://api.backblazeb2.com", "https://api001.backblazeb2.com", True),
        ("https://api.backblazeb2.com", "https://groups.backblaze.com", True),
        ("https://api.backblaze.net", "https://groups.backblaze.net", True),
        ("https://example.com", "https://example.com", True),
        ("https://b2.example.com", "https://groups.b2.example.com", True),
        ("https://b2.example.com", "https://groups.example.com", False),
        ("https://example.co.uk", "https://evil.co.uk", False),
        ("https://10.0.0.1", "https://66.0.0.1", False),
        ("https://example.com", "https://evil.example", False),
        ("https://api.backblazeb2.com", "https://evil.example", False),
        ("https://api.backblazeb2.com", "https://backblazeb2.com.evil.example", False),
        ("https://api.backblazeb2.com", "https://evilbackblazeb2.com", False),
        ("https://api.backblazeb2.com", "https://com", False),
        ("https://b2.example.com", "https://groups.evil.example", False),
        ("https://example.com", "https://evil.com", False),
        ("https://example.com", "http://127.0.0.1:1", False),
        ("https://api.backblazeb2.com", "http://api001.backblazeb2.com", False),
    ],
)
def test_only_the_owner_of_the_realm_gets_the_token(realm, url, same):
    if same:
        assert check_service_url(url, realm, "The groupsApiUrl") == url
    else:
        with pytest.raises(AnswerError, match=r"groupsApiUrl.*refused.*No credential was sent"):
            check_service_url(url, realm, "The groupsApiUrl")


# Against a server


def authorize(transport, standin):
    settings = standin.settings()
    return transport.send(
        "GET", standin.url + AUTHORIZE, auth=basic_auth(settings["admin_key_id"], settings["admin_key"])
    )


def token_of(standin):
    return next(iter(standin.partner.tokens))


def list_groups(transport, standin):
    query = {"adminAccountId": standin.settings()["admin_key_id"]}
    return transport.send("GET", standin.url + GROUPS, auth=TokenAuth(token_of(standin)), query=query)


def test_netrc_does_not_replace_our_credentials(standin, transport, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password wrong\ndefault login mallory password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert authorize(transport, standin).status == 200
    assert list_groups(transport, standin).status == 200


def test_a_loopback_address_is_reached_without_the_proxy(standin, other_standin, transport, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other_standin.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert authorize(transport, standin).status == 200
    assert other_standin.state()["calls"] == {}


FAR = "b2.example.com"


@pytest.fixture
def certificate(make_certificate):
    """A certificate of a host that is not on this machine: only a proxy makes it reachable."""
    return make_certificate(FAR)


@contextlib.contextmanager
def proxying(monkeypatch, first_answer, certificate="", far_answer=b""):
    """A proxy that gives this answer to CONNECT.

    With a certificate it then is the far host too: it reads one request, answers, and breaks off.
    """

    def serve(server):
        with contextlib.suppress(OSError):
            line, _peer = server.accept()
            with line:
                line.recv(65536)
                line.sendall(first_answer)
                if certificate:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(certificate)
                    with context.wrap_socket(line, server_side=True) as tunnel:
                        assert tunnel.recv(65536).startswith(b"GET ")
                        tunnel.sendall(far_answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield
        thread.join(5)


def test_a_tunnel_that_breaks_counts_as_sent(certificate, monkeypatch):
    """urllib3 forgets that a tunnel stood when it breaks, and then speaks of the proxy."""
    with proxying(monkeypatch, b"HTTP/1.1 200 OK\r\n\r\n", certificate), pytest.raises(NetworkError) as failed:
        Transport(timeout=5.0, verify=certificate).send("GET", f"https://{FAR}/", auth=basic_auth("a", "b"))
    assert (failed.value.sent, failed.value.hopeless) == (True, False)


def test_an_answer_through_a_proxy_is_read_as_any_other(certificate, monkeypatch):
    with proxying(monkeypatch, CONTINUE + b"HTTP/1.1 200 OK\r\n\r\n", certificate, EARLY_HINTS + fine(b"{}")):
        answer = Transport(timeout=5.0, verify=certificate).send("GET", f"https://{FAR}/", auth=basic_auth("a", "b"))
    assert (answer.status, answer.body) == (200, b"{}")


def test_a_proxy_that_gives_no_tunnel_has_sent_nothing(monkeypatch):
    with proxying(monkeypatch, b"HTTP/1.1 403 Forbidden\r\n\r\n"), pytest.raises(NetworkError, match="proxy") as failed:
        Transport(timeout=5.0, verify=True).send("GET", f"https://{FAR}/", auth=basic_auth("a", "b"))
    assert not failed.value.sent
    with pytest.raises(NetworkError, match="proxy") as failed:
        # Nobody listens there any more.
        Transport(timeout=5.0, verify=True).send("GET", f"https://{FAR}/", auth=basic_auth("a", "b"))
    assert not failed.value.sent


@pytest.mark.parametrize("chunked", [True, False])
def test_an_endless_redirect_ends_at_the_limit(standin, transport, chunked):
    endless = {"kind": "endless", "status": 302, "chunked": chunked, "headers": {"Location": "https://example.com/"}}
    standin.faults([{"operation": "*", "action": endless}])
    answer = authorize(transport, standin)
    assert not answer.complete
    assert len(answer.body) <= MAX_BODY + 1024 * 1024


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(standin, other_standin, transport, status):
    standin.faults(
        [
            {
                "operation": "*",
                "times": None,
                "action": {"kind": "redirect", "location": other_standin.url + AUTHORIZE, "status": status},
            }
        ]
    )
    assert authorize(transport, standin).status == status
    assert other_standin.state()["calls"] == {}


def test_no_answer_within_the_timeout(standin):
    transport = Transport(timeout=0.3, verify=True)
    standin.faults([{"operation": "*", "action": {"kind": "hang_before"}}])
    with pytest.raises(NetworkError) as failed:
        authorize(transport, standin)
    assert failed.value.sent
    assert not failed.value.hopeless


def test_nobody_listens(transport):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NetworkError) as failed:
        transport.send("GET", f"http://127.0.0.1:{port}/", auth=basic_auth("a", "b"))
    assert not failed.value.sent
    assert "127.0.0.1" in str(failed.value)


def test_a_connection_that_breaks_counts_as_sent(standin, transport):
    standin.faults([{"operation": "*", "action": {"kind": "cut_before"}}])
    with pytest.raises(NetworkError) as failed:
        authorize(transport, standin)
    assert failed.value.sent


@pytest.mark.parametrize("count", [0, 1, 100])
def test_of_a_body_cut_short_all_that_arrived_is_there(standin, transport, count):
    whole = authorize(transport, standin)
    assert whole.complete
    standin.faults([{"operation": "*", "action": {"kind": "truncate", "bytes": count}}])
    cut = authorize(transport, standin)
    assert not cut.complete
    assert len(cut.body) == count
    assert whole.body.startswith(cut.body[:20])
    assert authorize(transport, standin).complete


@pytest.mark.parametrize("chunked", [True, False])
def test_an_endless_body_ends_at_the_limit(standin, transport, chunked):
    standin.faults([{"operation": "*", "action": {"kind": "endless", "chunked": chunked}}])
    answer = authorize(transport, standin)
    assert not answer.complete
    assert 1 <= len(answer.body) <= MAX_BODY + 1024 * 1024


def test_a_body_that_drips_for_ever_ends_with_the_timeout(standin):
    transport = Transport(timeout=0.5, verify=True)
    standin.faults([{"operation": "*", "action": {"kind": "endless", "rate": 200}}])
    started = time.monotonic()
    answer = authorize(transport, standin)
    assert time.monotonic() - started < 5
    assert not answer.complete
    assert answer.body


def test_connections_are_kept_alive(standin, monkeypatch):
    accepted = []
    made = standin_module.Connection.connection_made
    monkeypatch.setattr(
        standin_module.Connection,
        "connection_made",
        lambda self, transport: (accepted.append(1), made(self, transport))[1],
    )
    transport = Transport(timeout=5.0, verify=True, connections=8)
    authorize(transport, standin)
    for _number in range(20):
        assert list_groups(transport, standin).status == 200
    assert len(accepted) == 1

    def many():
        for _number in range(20):
            list_groups(transport, standin)

    threads = [threading.Thread(target=many) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert standin.state()["calls"]["b2_list_groups"] == 20 + 8 * 20
    assert len(accepted) <= 8


# Which request an answer belongs to


def next_request(line):
    """Return the next request of a connection, empty at the end of the connection. Head and body come in pieces."""
    request, missing = b"", 1
    while missing > 0:
        part = line.recv(65536)
        if not part:
            return b""
        request += part
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
        missing = (int(length.group(1)) if length else 0) - len(body) if end else 1
    return request


@contextlib.contextmanager
def scripted(answers, certificate="", received=None):
    """A server that answers each request with the next of these bytes.

    Yields its URL and, for each request, the number of its connection. received: a list that gets the requests.
    """
    waiting, connections = list(answers), []

    def serve(line, number):
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            line = context.wrap_socket(line, server_side=True)
        with line, contextlib.suppress(OSError):
            while (request := next_request(line)) and waiting:
                connections.append(number)
                if received is not None:
                    received.append(request)
                for part in waiting.pop(0):
                    line.sendall(part)
                    time.sleep(0.02)

    def accept(server):
        with contextlib.suppress(OSError):
            for number in range(100):
                threading.Thread(target=serve, args=(server.accept()[0], number), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.getsockname()[1]}", connections


def fine(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    "interim",
    [
        [EARLY_HINTS],
        [PROCESSING],
        [CONTINUE, EARLY_HINTS, PROCESSING],
        [EARLY_HINTS + PROCESSING],
        [EARLY_HINTS[:30], EARLY_HINTS[30:]],
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_an_interim_answer_is_not_taken_for_the_final_one(transport, interim, together):
    """http.client skips 100 only. The next request on the connection then read the final answer to this one."""
    first = [b"".join(interim) + fine(b"first")] if together else [*interim, fine(b"first")]
    with scripted([first, [fine(b"second")]]) as (url, connections):
        for expected in (b"first", b"second"):
            answer = transport.send("GET", url + "/", auth=basic_auth("a", "b"))
            assert (answer.status, answer.body, answer.complete) == (200, expected, True)
    assert connections == [0, 0], "an exchange that ended for certain leaves its connection for the next one"


def test_interim_answers_without_end_are_no_answer():
    transport = Transport(timeout=0.5, verify=True)
    with scripted([[EARLY_HINTS * 300]]) as (url, _connections), pytest.raises(NetworkError) as failed:
        transport.send("GET", url + "/", auth=basic_auth("a", "b"))
    assert failed.value.sent


def test_switching_protocols_is_an_answer_after_which_nothing_else_is_sent(transport):
    with scripted([[b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], [fine(b"second")]]) as (url, connections):
        assert transport.send("GET", url + "/", auth=basic_auth("a", "b")).status == 101
        assert transport.send("GET", url + "/", auth=basic_auth("a", "b")).body == b"second"
    assert connections == [0, 1]


@pytest.mark.parametrize(
    "odd",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", fine(b"late")],
        [b"HTTP/1.1 204 No Content\r\n\r\n", fine(b"late")],
        [b"HTTP/1.1 204 No Content\r\n\r\n" + fine(b"late")],
        [fine(b"{}") + fine(b"late")],
        [fine(b"{}") + b"\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + fine(b"late")],
        [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno header\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
    ],
)
def test_a_connection_of_which_it_is_not_certain_that_its_exchange_is_over_is_not_used_again(odd):
    transport = Transport(timeout=0.5, verify=True)
    with scripted([odd, [fine(b"second")]]) as (url, connections):
        first = transport.send(
            "GET",
            url + "/",
            auth=basic_auth("a", "b"),
            is_sound=lambda answer: answer.complete and answer.status == 200,
        )
        assert first.body in (b"", b"{}")
        time.sleep(0.05)
        assert transport.send("GET", url + "/", auth=basic_auth("a", "b")).body == b"second"
    assert connections == [0, 1]


@pytest.mark.parametrize(
    "auth, credential, asked_with",
    [(TokenAuth("4_token"), "4_token", ("4_token",)), (basic_auth("id", "key"), "Basic aWQ6a2V5", ("aWQ6a2V5", "key"))],
)
@pytest.mark.parametrize(
    "method, query, body, target",
    [
        ("GET", None, None, "/x"),
        ("GET", {}, None, "/x"),
        ("GET", {"a": "b c&", "n": 1000}, None, "/x?a=b+c%26&n=1000"),
        ("POST", None, b'{"a": 1}', "/x"),
    ],
)
def test_a_request_has_its_own_headers_and_no_others(
    transport, auth, credential, asked_with, method, query, body, target
):
    received = []
    with scripted([[fine(b"{}")]], received=received) as (url, _connections):
        answer = transport.send(method, f"{url}/x", auth=auth, query=query, body=body)
    head, _end, sent = received[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    agent = headers.pop("User-Agent")
    assert agent.startswith("community.backblaze/") and " Python/3." in agent and " requests/2." in agent
    assert (first, sent) == (f"{method} {target} HTTP/1.1", body or b"")
    own = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}
    assert headers == {
        "Host": url.partition("//")[2],
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
        "Authorization": credential,
        **own,
    }
    # What an error must not repeat: the credential as it was sent, and the key of HTTP Basic.
    assert answer.asked_with == asked_with


@pytest.mark.parametrize("late", [b"", b"x" * 100])
def test_what_tls_has_fetched_and_nobody_has_read_counts_as_arrived(make_certificate, late):
    """Where the body ends with a full buffer, the rest of the record is neither in that nor in the socket."""
    certificate = make_certificate("127.0.0.1")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    body = b"y" * (io.DEFAULT_BUFFER_SIZE - len(head % 8000))
    with scripted([[head % len(body) + body + late], [fine(b"second")]], certificate) as (url, connections):
        transport = Transport(timeout=5.0, verify=certificate)
        first = transport.send("GET", url + "/", auth=basic_auth("a", "b"))
        assert (first.body, first.complete) == (body, True)
        assert transport.send("GET", url + "/", auth=basic_auth("a", "b")).body == b"second"
    assert connections == ([0, 1] if late else [0, 0])


def test_a_connection_is_used_again_only_after_the_answer_that_was_asked_for(transport):
    with scripted([[fine(b"first")], [fine(b"second")], [fine(b"third")]]) as (url, connections):
        looked_at = []
        for sound in (False, True, True):
            transport.send(
                "GET",
                url + "/",
                auth=basic_auth("a", "b"),
                is_sound=lambda answer, sound=sound: (looked_at.append(answer.body), sound)[1],
            )
        assert looked_at == [b"first", b"second", b"third"]
    assert connections == [0, 1, 1]


def test_whoever_fails_over_an_answer_leaves_no_connection(transport):
    def failing(_answer):
        raise RuntimeError("a bug")

    with scripted([[fine(b"first")], [fine(b"second")]]) as (url, connections):
        with pytest.raises(RuntimeError):
            transport.send("GET", url + "/", auth=basic_auth("a", "b"), is_sound=failing)
        assert transport.send("GET", url + "/", auth=basic_auth("a", "b")).body == b"second"
    assert connections == [0, 1]


def test_what_arrives_behind_the_end_is_kept_apart(transport):
    with scripted([[fine(b"{}") + fine(b"late")]]) as (url, _connections):
        answer = transport.send("GET", url + "/", auth=basic_auth("a", "b"))
    assert (answer.body, answer.rest, answer.complete) == (b"{}", fine(b"late"), True)


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"]
)
@pytest.mark.parametrize("drop", [b"x", b"x: y\r\n", b"1\r\nx\r\n"])
def test_an_answer_that_drips_ends_with_the_timeout_wherever_it_drips(start, drop):
    """One deadline for headers, body and trailers: each byte used to begin a new one."""
    transport = Transport(timeout=0.5, verify=True)
    with scripted([[start, *[drop] * 400]]) as (url, _connections):
        started = time.monotonic()
        with contextlib.suppress(NetworkError):
            assert not transport.send("GET", url + "/", auth=basic_auth("a", "b")).complete
        # The server drips for eight seconds and longer.
        assert time.monotonic() - started < 5


def test_a_chunk_of_an_invalid_length_ends_the_body(transport):
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    with scripted([[start + b"zz\r\n"], [fine(b"second")]]) as (url, connections):
        answer = transport.send("GET", url + "/", auth=basic_auth("a", "b"))
        assert (answer.body, answer.complete) == (b"{}", False)
        assert transport.send("GET", url + "/", auth=basic_auth("a", "b")).body == b"second"
    assert connections == [0, 1]


def test_what_cannot_be_sent_is_known_as_not_sent(standin, transport):
    unreadable_bundle = Transport(timeout=1.0, verify="/does/not/exist.pem")
    with pytest.raises(NetworkError) as failed:
        unreadable_bundle.send("GET", "https://127.0.0.1:9/", auth=basic_auth("a", "b"))
    assert (failed.value.sent, failed.value.hopeless) == (False, True)
    with pytest.raises(NetworkError) as failed:
        transport.send("GET", standin.url + AUTHORIZE, auth=TokenAuth("to\nken"))
    assert (failed.value.sent, failed.value.hopeless) == (False, True)
    assert "Check the credentials." in failed.value.explain()


SECRET = "K004Secret/that+nobody_may-see1"


def failed_by(cause, error=requests.exceptions.ConnectionError):
    """Return an error of requests as it wraps one of urllib3; any of them may quote the request."""
    return error(MaxRetryError(None, f"/{SECRET}", cause), request=SECRET)


@pytest.mark.parametrize(
    "error, sent, hopeless, said",
    [
        (
            requests.exceptions.InvalidHeader(SECRET),
            True,
            True,
            r"not valid HTTP \(InvalidHeader\)\..* Check the realm",
        ),
        (ValueError(SECRET), True, True, r"not valid HTTP \(ValueError\)\..* Check the realm"),
        (requests.exceptions.InvalidURL(SECRET), False, True, r"a URL is not valid\..* Check the realm"),
        (
            failed_by(ssl.SSLError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] expired"), requests.exceptions.SSLError),
            True,
            True,
            r"TLS connection to far\.example .* Check ca_path",
        ),
        (failed_by(ssl.SSLError(1, "bad"), requests.exceptions.SSLError), True, False, r"TLS connection .*\(bad\)"),
        (
            failed_by(OSError(f"Tunnel connection failed: 403 {SECRET}"), requests.exceptions.ProxyError),
            False,
            False,
            r"proxy for far\.example does not answer \(OSError\)\..* Check the proxy",
        ),
        (failed_by(OSError(5, "cut"), requests.exceptions.ProxyError), True, False, r"does not answer \(cut\)"),
        (
            failed_by(ConnectTimeoutError(None, SECRET), requests.exceptions.ConnectTimeout),
            False,
            False,
            r"far\.example cannot be reached \(ConnectTimeoutError\)\..* Check the network",
        ),
        (failed_by(NewConnectionError(None, SECRET)), False, False, r"cannot be reached \(NewConnectionError\)"),
        (
            failed_by(ReadTimeoutError(None, SECRET, SECRET), requests.exceptions.ReadTimeout),
            True,
            False,
            r"far\.example did not answer within 5 seconds\..* raise api_timeout",
        ),
        (
            requests.exceptions.ConnectionError(
                ProtocolError(SECRET, ConnectionResetError(104, "reset")), request=SECRET
            ),
            True,
            False,
            r"connection to far\.example broke \(reset\)\..* Run again",
        ),
        (OSError(SECRET), False, True, r"read from /ca\.pem \(it is missing or damaged\)\..* Check ca_path"),
        (OSError(13, "Permission denied"), False, True, r"read from /ca\.pem \(Permission denied\)"),
    ],
)
def test_each_error_of_the_http_library_says_whether_the_request_was_sent(monkeypatch, error, sent, hopeless, said):
    transport = Transport(timeout=5.0, verify="/ca.pem")

    def failing(*_arguments, **_options):
        raise error

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", failing)
    with pytest.raises(NetworkError) as failed:
        transport.send("GET", f"https://far.example{AUTHORIZE}", auth=basic_auth("id", SECRET))
    assert (failed.value.sent, failed.value.hopeless) == (sent, hopeless)
    assert re.search(said, failed.value.explain())
    assert SECRET not in "".join(traceback.format_exception(failed.value)) + repr(failed.value.facts)


@pytest.mark.parametrize(
    "kind",
    [{"kind": "cut_before"}, {"kind": "hang_before"}, {"kind": "redirect", "location": "/"}, {"kind": "html"}, None],
)
def test_no_secret_is_in_an_error(standin, make_client, kind):
    """Not in its text, and not in a traceback of it with all its causes."""
    if kind:
        standin.faults([{"operation": "*", "times": None, "action": kind}])
    client = make_client(standin, key=SECRET, timeout=0.2, max_retries=1)
    with pytest.raises(B2Error) as failed:
        client.authorize()
    told = "".join(traceback.format_exception(failed.value)) + repr(failed.value.facts)
    encoded = base64.b64encode(f"{standin.settings()['admin_key_id']}:{SECRET}".encode()).decode()
    assert SECRET not in told
    assert encoded not in told


def test_no_token_is_in_an_error_or_a_repr(standin, make_client):
    client = make_client(standin, timeout=0.2, max_retries=0)
    session = client._caller.authorize()
    standin.faults([{"operation": "*", "times": None, "action": {"kind": "hang_before"}}])
    with pytest.raises(NetworkError) as failed:
        client.groups()
    told = "".join(traceback.format_exception(failed.value)) + repr(session)
    assert session.token not in told


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "socks5h://127.0.0.1:9", r"SOCKS proxy.*PySocks.*pip install 'requests\[socks\]'"),
        *(
            (name, "/nowhere/ca.pem", r"cannot be read from /nowhere/ca\.pem \(it is missing or damaged\).*REQUESTS_CA")
            for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(monkeypatch, variable, value, said):
    for name in ("HTTPS_PROXY", "https_proxy", "all_proxy", "NO_PROXY", "no_proxy", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    # requests has it so if PySocks is not installed; the two lines are its own.
    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", _no_socks)
    monkeypatch.setenv(variable, value)
    transport = Transport(timeout=5.0, verify=True)
    with pytest.raises(NetworkError, match=said) as failed:
        transport.send("GET", f"https://api.backblazeb2.com{AUTHORIZE}", auth=basic_auth("key id", "key"))
    assert not failed.value.sent and failed.value.hopeless


def _no_socks(*_arguments, **_options):
    raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")
