# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests share: a running stand-in for the Partner API, and clients for it that do not sleep."""

from __future__ import annotations

import datetime
import ipaddress

import hypothesis
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.community.backblaze.plugins.module_utils._api.calls import Caller
from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Transport
from ansible_collections.community.backblaze.tests.utils.standin import StandIn

# No time limits: these machines differ. No database: nothing is written into the checkout.
hypothesis.settings.register_profile(
    "collection",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("collection")


@pytest.fixture
def standin():
    """A well-behaved Partner API with one empty Group, "hosting"."""
    with StandIn(groups=["hosting"]) as running:
        yield running


@pytest.fixture
def other_standin():
    """Somebody else's server: nothing of ours may ever arrive there."""
    with StandIn() as running:
        yield running


@pytest.fixture
def make_client():
    """A factory of clients; what a client would have slept is in ``client.waits``."""
    transports = []

    def make(standin, *, key_id=None, key=None, timeout=5.0, connections=1, max_retries=5, api_version="v3"):
        settings = standin.settings()
        transport = Transport(timeout=timeout, verify=True, connections=connections)
        transports.append(transport)
        waits = []
        caller = Caller(
            transport,
            Repeater(max_retries, waits.append),
            realm=standin.url,
            key_id=key_id or settings["admin_key_id"],
            key=key or settings["admin_key"],
        )
        client = Partner(caller, api_version)
        client.waits = waits
        return client

    yield make
    for transport in transports:
        transport.close()


@pytest.fixture
def make_certificate(tmp_path):
    """A factory of certificates that nobody but themselves vouches for, each with its key in one file; it returns the
    path."""

    def make(host):
        key, name = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]),
        )
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        names = [x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, hashes.SHA256())
        path = tmp_path / f"{host}-{len(list(tmp_path.iterdir()))}.pem"
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + made.public_bytes(pem))
        return str(path)

    return make


@pytest.fixture
def client(standin, make_client):
    """A client of the stand-in."""
    return make_client(standin)


@pytest.fixture
def group_id(standin):
    """The id of the Group "hosting"."""
    return standin.groups["hosting"]
