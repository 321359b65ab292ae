# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backblaze's own clients take the stand-in for the real service, with the first key of a member.

They judge the stand-in: what they send, it has to understand, and what it answers, they have to understand.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import types
import urllib.error
import urllib.request

import pytest
from b2sdk.v3 import B2Api, InMemoryAccountInfo
from b2sdk.v3.exception import InvalidAuthToken, RestrictedBucketMissing, Unauthorized

from project import PATIENCE, serving

EMAIL = "ada@example.com"
#: The b2 tool refuses to work with a key that lacks listBuckets.
CAPABILITIES = ["listBuckets", "listKeys"]
#: How a wrong key is refused.
CODES = ("unauthorized", "bad_auth_token")
#: Of a key that Backblaze knows nothing of, with the length of a real one.
NO_KEY = "K004" + "x" * 27


@pytest.fixture
def service(tmp_path):
    """The stand-in, and the first key of a member of a Group there."""
    with serving(tmp_path, "hosting") as server:
        made = server.add_member("hosting", EMAIL)
        account = {"account_id": made["accountId"], "key_id": made["applicationKeyId"], "key": made["applicationKey"]}
        yield types.SimpleNamespace(server=server, **account)


def authorized(service, key_id, key):
    """Return a b2sdk session."""
    api = B2Api(InMemoryAccountInfo())
    api.authorize_account(key_id, key, realm=service.server.url)
    return api


def authorize_plainly(service, version, key_id, key):
    """Return the status and the answer of an authorize call by no client at all."""
    basic = base64.b64encode(f"{key_id}:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "User-Agent": "test"}
    request = urllib.request.Request(f"{service.server.url}/b2api/{version}/b2_authorize_account", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def b2(service, tmp_path):
    """The command line tool, for a user whose home is empty and whose environment holds the member's key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("B2_")}
    environment = {
        **kept,
        "HOME": str(tmp_path),
        "B2_ACCOUNT_INFO": str(tmp_path / "account-info"),
        "B2_ENVIRONMENT": service.server.url,
        "B2_APPLICATION_KEY_ID": service.key_id,
        "B2_APPLICATION_KEY": service.key,
    }

    def run(*arguments, returncode=0, **changes):
        done = subprocess.run(
            ["b2", *arguments],
            cwd=tmp_path,
            env={**environment, **changes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == returncode, done.stdout + done.stderr
        return done.stdout if returncode == 0 else done.stderr

    return run


def test_the_sdk_manages_the_keys_of_a_member(service):
    api = authorized(service, service.key_id, service.key)
    assert api.account_info.get_account_id() == service.account_id
    # Capabilities that this release has not heard of are no problem to it.
    assert {"readBucketLogging", "writeBucketLifecycleRules"} <= set(api.account_info.get_allowed()["capabilities"])
    assert [key.id_ for key in api.list_keys()] == [service.key_id]

    made = api.create_key(CAPABILITIES, "backup", valid_duration_seconds=3600)
    assert made.account_id == service.account_id and made.expiration_timestamp_millis
    listed = {key.id_: key for key in api.list_keys()}
    assert set(listed) == {service.key_id, made.id_}
    assert (listed[made.id_].key_name, sorted(listed[made.id_].capabilities)) == ("backup", CAPABILITIES)

    other = authorized(service, made.id_, made.application_key)
    assert {key.id_ for key in other.list_keys()} == set(listed) and other.list_buckets() == []
    # The capabilities hold: this key may list keys and no more.
    with pytest.raises(Unauthorized):
        other.delete_key(made)

    assert api.delete_key(made).id_ == made.id_
    assert [key.id_ for key in api.list_keys()] == [service.key_id]
    with pytest.raises(Unauthorized):
        authorized(service, made.id_, made.application_key)
    agents = {call["user_agent"].split("/")[0] for call in service.server.log()}
    assert agents == {"backblaze-b2"} and {call["version"] for call in service.server.log()} == {"v4"}


def test_the_sdk_lists_keys_page_by_page(service):
    api = authorized(service, service.key_id, service.key)
    made = [api.create_key(CAPABILITIES, f"k{number}").id_ for number in range(5)]
    api.DEFAULT_LIST_KEY_COUNT = 2
    assert [key.id_ for key in api.list_keys()] == sorted([service.key_id, *made])
    assert service.server.state()["calls"]["b2_list_keys"] == 3


@pytest.mark.parametrize("code", CODES)
def test_the_sdk_knows_a_wrong_key(service, code):
    service.server.settings(wrong_key_code=code)
    for key_id in (service.key_id, "0040000000000000000000001"):
        with pytest.raises(Unauthorized) as refused:
            authorized(service, key_id, NO_KEY)
        assert isinstance(refused.value, InvalidAuthToken) is (code == "bad_auth_token")
    assert authorized(service, service.key_id, service.key).account_info.get_account_id() == service.account_id


def test_the_tool_manages_the_keys_of_a_member(service, b2, tmp_path):
    told = json.loads(b2("account", "authorize"))
    assert (told["accountId"], told["applicationKeyId"], told["apiUrl"]) == (
        service.account_id,
        service.key_id,
        service.server.url,
    )
    assert (tmp_path / "account-info").exists()
    assert b2("key", "list").split() == [service.key_id, "member"]

    key_id, key = b2("key", "create", "backup", ",".join(CAPABILITIES)).split()
    everything_id, _key = b2("key", "create", "--all-capabilities", "everything").split()
    listed = dict(line.split() for line in b2("key", "list").splitlines())
    assert listed == {service.key_id: "member", key_id: "backup", everything_id: "everything"}
    made = [entry for entry in service.server.ledger() if entry["operation"] == "b2_create_key"]
    assert [(entry["key_id"], entry["delivered"]) for entry in made] == [(key_id, True), (everything_id, True)]

    own = {"B2_ACCOUNT_INFO": str(tmp_path / "other"), "B2_APPLICATION_KEY_ID": key_id, "B2_APPLICATION_KEY": key}
    assert json.loads(b2("account", "authorize", **own))["allowed"]["capabilities"] == CAPABILITIES
    assert "deleteKeys" in b2("key", "delete", key_id, returncode=1, **own)

    for gone in (key_id, everything_id):
        b2("key", "delete", gone)
    assert b2("key", "list").split() == [service.key_id, "member"]
    assert "unable to authorize" in b2("account", "authorize", returncode=1, **own)


@pytest.mark.parametrize("code", CODES)
def test_the_tool_knows_a_wrong_key(service, b2, code):
    service.server.settings(wrong_key_code=code)
    assert "unable to authorize account" in b2("account", "authorize", returncode=1, B2_APPLICATION_KEY=NO_KEY)
    b2("account", "authorize")


def test_a_key_that_the_sdk_restricted_to_buckets_is_refused_at_v3(service, b2):
    api = authorized(service, service.key_id, service.key)
    restricted = api.create_key(CAPABILITIES, "restricted", bucket_ids=["b0b1b2b3b4b5b6b7b8b9babb"])
    free = api.create_key(CAPABILITIES, "free")

    status, answer = authorize_plainly(service, "v4", restricted.id_, restricted.application_key)
    [bucket_id] = restricted.bucket_ids
    allowed = answer["apiInfo"]["storageApi"]["allowed"]
    assert status == 200 and allowed["buckets"] == [{"id": bucket_id, "name": None}]
    status, answer = authorize_plainly(service, "v3", restricted.id_, restricted.application_key)
    assert (status, answer["code"]) == (400, "bad_request")
    assert "not currently supported on API version number 3" in answer["message"]
    for version in ("v3", "v4"):
        assert authorize_plainly(service, version, free.id_, free.application_key)[0] == 200
    # The SDK authorizes at v4, and takes the bucket, which the stand-in has no name for, for one that was deleted.
    with pytest.raises(RestrictedBucketMissing):
        authorized(service, restricted.id_, restricted.application_key)
    assert [call["status"] for call in service.server.log()][-1] == 200

    # So does the tool, which then shows the id of the bucket.
    b2("account", "authorize")
    assert f"id={bucket_id}" in b2("key", "list", "--long")
