# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests share: a running stand-in for the Partner API, and clients for it that do not sleep."""

from __future__ import annotations

import hypothesis
import pytest

from ansible_collections.community.backblaze.plugins.module_utils._calls import Caller
from ansible_collections.community.backblaze.plugins.module_utils._client import Client
from ansible_collections.community.backblaze.plugins.module_utils._transport import Transport
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

    def make(standin, *, key_id=None, key=None, timeout=5.0, connections=1, **options):
        settings = standin.settings()
        transport = Transport(timeout=timeout, verify=True, connections=connections)
        transports.append(transport)
        waits = []
        caller = Caller(
            transport,
            key_id=key_id or settings["admin_key_id"],
            key=key or settings["admin_key"],
            realm=standin.url,
            wait=waits.append,
            **options,
        )
        client = Client(caller)
        client.waits = waits
        return client

    yield make
    for transport in transports:
        transport.close()


@pytest.fixture
def client(standin, make_client):
    """A client of the stand-in."""
    return make_client(standin)


@pytest.fixture
def group_id(standin):
    """The id of the Group "hosting"."""
    return standin.groups["hosting"]
