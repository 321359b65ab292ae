# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose certificate is believed, and how long connecting may take: from the options to the wire."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
import warnings

import pytest
import urllib3.util.connection
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.community.backblaze.plugins.module_utils._errors import NetworkError
from ansible_collections.community.backblaze.plugins.module_utils._options import CONNECTION_SPEC, connect

CONTROLLER = "127.0.0.1"
AUTHORIZED = ["/b2api/v4/b2_authorize_account"]
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class Realm(http.server.BaseHTTPRequestHandler):
    """Says to authorize what Backblaze would."""

    def do_GET(self):
        self.server.asked.append(self.path)
        api = {"groupsApi": {"groupsApiUrl": f"https://{CONTROLLER}:{self.server.server_port}"}}
        body = json.dumps({"accountId": "0a1b2c3d4e5f", "authorizationToken": "token", "apiInfo": api}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Print nothing."""


@contextlib.contextmanager
def serving(certificate):
    """A realm behind TLS; what it was asked is in ``asked``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer((CONTROLLER, 0), Realm) as server:
        server.asked = []
        # The handshake is made in the thread of the connection, where one that fails disturbs nobody.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda request, address: None
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in BUNDLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificate(make_certificate):
    return make_certificate(CONTROLLER)


@pytest.fixture
def server(certificate):
    with serving(certificate) as running:
        yield running


def authorize(server, **given):
    """Authorize with these options, as every plugin does; return what the server was asked for that."""
    realm = f"https://{CONTROLLER}:{server.server_port}"
    validated = ArgumentSpecValidator(CONNECTION_SPEC).validate(
        {
            "application_key_id": "0a1b2c3d4e5f",
            "application_key": "K004secret",
            "realm": realm,
            "api_timeout": 5,
            "max_retries": 0,
            **given,
        }
    )
    assert validated.error_messages == []
    client = connect(validated.validated_parameters)
    server.asked.clear()
    try:
        client.authorize()
    finally:
        client.close()
    return server.asked


def check_refused(server, **given):
    with pytest.raises(NetworkError, match=r"TLS.*ca_path, validate_certs") as refused:
        authorize(server, **given)
    assert refused.value.hopeless
    assert server.asked == [], "a credential was sent to whom nobody vouches for"


def test_a_certificate_that_nobody_vouches_for_is_refused(server):
    check_refused(server)
    check_refused(server, validate_certs=True)


def test_the_authorities_of_ca_path_are_believed(server, certificate):
    assert authorize(server, ca_path=certificate) == AUTHORIZED


def test_no_others_are_believed_then(server, make_certificate, monkeypatch, certificate):
    # Also where the environment names the right one: the option is nearer.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    check_refused(server, ca_path=make_certificate(CONTROLLER))


def test_a_certificate_of_another_host_is_refused(make_certificate):
    theirs = make_certificate("b2.example.com")
    with serving(theirs) as server:
        check_refused(server, ca_path=theirs)


def test_without_validation_any_certificate_does(server, make_certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", make_certificate(CONTROLLER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert authorize(server, validate_certs=False) == AUTHORIZED
        assert authorize(server, validate_certs=False, ca_path=make_certificate(CONTROLLER)) == AUTHORIZED


@pytest.mark.parametrize("name", BUNDLES)
def test_the_authorities_of_the_environment_are_believed(server, certificate, monkeypatch, name):
    monkeypatch.setenv(name, certificate)
    assert authorize(server) == AUTHORIZED


@pytest.mark.parametrize("timeout, connecting", [(3600, 15.0), (60, 15.0), (15, 15.0), (2.5, 2.5)])
def test_connecting_takes_no_longer_than_a_quarter_of_a_minute(server, monkeypatch, timeout, connecting):
    """Whoever does not answer to a connection is not there, however much time an answer may take."""
    patience = []

    def nobody(address, timeout, *_others, **_options):
        patience.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib3.util.connection, "create_connection", nobody)
    with pytest.raises(NetworkError, match="cannot be reached") as failed:
        authorize(server, api_timeout=timeout)
    assert patience == [connecting]
    assert not failed.value.sent
