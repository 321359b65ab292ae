# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calls inside a member's account: another session than the admin's, on the same connections and at the same pace."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._api.calls import AUTHORIZE, Service
from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, ApiError, OptionError

LIST_BUCKETS = "b2_list_buckets"
ALICE = "alice@x.example"
#: What a call in storage.py will use.
STORAGE = Service("Backblaze B2", "storageApi", "apiUrl", version="v4", account_field="accountId", remedy="")


@pytest.fixture
def member(client, group_id):
    """A member that was just created, with the member's key."""
    return client.create_member(group_id, ALICE)


@pytest.fixture
def caller(client, member):
    """A caller for the key of that member."""
    return client._caller.for_member(member.key_id, member.key)


def test_a_call_goes_to_the_storage_url_with_a_session_of_the_member(standin, client, member, caller):
    assert caller.read(STORAGE, LIST_BUCKETS, {})["buckets"] == []
    call = standin.log()[-1]
    assert (call["operation"], call["version"]) == (LIST_BUCKETS, "v4")
    assert caller.authorize().account_id == member.member.account_id != client._caller.authorize().account_id
    assert client.calls[AUTHORIZE] == 2 and client.calls[LIST_BUCKETS] == 1


def test_a_token_of_the_member_is_renewed_and_a_throttled_call_repeated(standin, client, caller):
    caller.read(STORAGE, LIST_BUCKETS, {})
    standin.tokens("expire")
    standin.faults([{"operation": LIST_BUCKETS, "after": 1, "action": {"kind": "throttle", "retry_after": 7}}])
    assert "buckets" in caller.read(STORAGE, LIST_BUCKETS, {})
    assert max(client.waits) >= 7
    # The pause is the admin's, too.
    client.waits.clear()
    client.groups()
    assert max(client.waits) > 6


def test_an_error_is_about_the_members_account(standin, caller):
    standin.faults([{"operation": LIST_BUCKETS, "action": {"kind": "error", "status": 403, "code": "access_denied"}}])
    with pytest.raises(ApiError, match="The member's account is suspended"):
        caller.read(STORAGE, LIST_BUCKETS, {})


@pytest.mark.parametrize("url, error", [("https://example.com", AnswerError), (None, OptionError), ("", OptionError)])
def test_no_token_leaves_for_another_owner_or_for_no_url(standin, caller, url, error):
    body = {"apiInfo": {"storageApi": {"apiUrl": url}}}
    standin.faults([{"operation": AUTHORIZE, "action": {"kind": "patch", "body": body}}])
    with pytest.raises(error, match="apiUrl"):
        caller.read(STORAGE, LIST_BUCKETS, {})
    assert LIST_BUCKETS not in standin.state()["calls"]


def test_the_url_of_the_groups_does_not_matter_to_a_members_key(standin, client, member):
    body = {"apiInfo": {"groupsApi": {"groupsApiUrl": "https://example.com"}}}
    standin.faults([{"operation": AUTHORIZE, "action": {"kind": "patch", "body": body}}])
    assert client.opens(member.key_id, member.key) == member.member.account_id
