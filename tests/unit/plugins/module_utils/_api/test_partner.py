# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Partner API as the client speaks it, against a server that misbehaves on request."""

from __future__ import annotations

import base64
import concurrent.futures
import gzip
import json
import threading
import types
import zlib

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._api import retries
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    AnswerError,
    ApiError,
    B2Error,
    KeyLostError,
    MemberExistsError,
    NetworkError,
    OptionError,
    PatienceError,
    StoppedError,
)
from ansible_collections.community.backblaze.tests.utils import standin as standin_module

CREATE = "b2_create_group_member"
EJECT = "b2_eject_group_member"
LIST = "b2_list_group_members"
ALICE = "alice@x.example"
KEY = "K004abc/DEF+ghi_JKL-mno/PQRstuv"
KEY_ID = "0045f2a1c0b3d4e0000000001"


def in_threads(count, work):
    """Run ``work`` in so many threads at the same moment; return what they returned, or raise what one raised."""
    results, barrier = [], threading.Barrier(count)

    def run():
        barrier.wait()
        try:
            results.append(work())
        except B2Error as exc:
            results.append(exc)

    threads = [threading.Thread(target=run) for _number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, B2Error):
            raise result
    return results


def calls(standin):
    return standin.state()["calls"]


def accounts(standin, email=ALICE):
    return [account for account in standin.state()["accounts"] if account["email"].lower() == email]


# Authorize


def test_many_threads_authorize_once(standin, make_client):
    standin.settings(latency_ms=30)
    client = make_client(standin, connections=16)
    found = in_threads(16, client.groups)
    assert [[group.group_name for group in groups] for groups in found] == [["hosting"]] * 16
    assert calls(standin)["b2_authorize_account"] == 1
    assert client.calls == {"b2_authorize_account": 1, "b2_list_groups": 16}


def test_many_threads_renew_an_expired_token_once(standin, make_client):
    client = make_client(standin, connections=16)
    client.groups()
    standin.settings(latency_ms=30)
    standin.tokens("expire")
    assert len(in_threads(16, client.groups)) == 16
    assert calls(standin)["b2_authorize_account"] == 2


def test_a_token_that_is_refused_again_and_again_is_not_renewed_for_ever(standin, client):
    standin.settings(token_uses=0)
    with pytest.raises(ApiError) as failed:
        client.groups()
    assert failed.value.code == "expired_auth_token"
    assert calls(standin)["b2_authorize_account"] == 2


def test_a_token_that_is_always_refused_is_renewed_once(standin, make_client):
    standin.faults(
        [
            {
                "operation": "b2_list_groups",
                "times": None,
                "action": {"kind": "error", "status": 401, "code": "expired_auth_token"},
            }
        ]
    )
    client = make_client(standin, connections=4)
    with pytest.raises(ApiError, match="so has a new token"):
        client.groups()
    assert calls(standin) == {"b2_authorize_account": 2, "b2_list_groups": 2}
    # With others that fare the same there is an end to it as well.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(client.groups).exception() for _thread in range(8)]
    assert all(isinstance(one, ApiError) and one.code == "expired_auth_token" for one in failed)
    assert calls(standin)["b2_authorize_account"] <= 2 + 4 * 8


def test_an_eject_whose_answer_was_lost_is_believed_when_the_list_catches_up(standin, client, group_id):
    member = standin.add_member("hosting", ALICE)
    left = {
        "groupId": group_id,
        "groupName": "hosting",
        "groupMembers": [{"accountId": member["accountId"], "email": ALICE}],
        "nextEmail": None,
    }
    standin.faults(
        [
            {"operation": "b2_eject_group_member", "action": {"kind": "cut_after"}},
            {"operation": LIST, "action": {"kind": "raw", "body": json.dumps(left)}},
        ]
    )
    assert client.eject_member(group_id, member["accountId"]).account_id == member["accountId"]
    assert client.waits


def test_not_the_master_key(standin, make_client):
    settings = standin.settings()
    client = make_client(standin, key_id=settings["admin_app_key_id"], key=settings["admin_app_key"])
    with pytest.raises(OptionError, match="master") as failed:
        client.groups()
    assert "enabled" in str(failed.value)
    assert calls(standin) == {"b2_authorize_account": 1}


def test_an_account_that_is_not_enabled(standin, client):
    standin.settings(groups_enabled=False)
    with pytest.raises(OptionError, match="enabled"):
        client.groups()


def test_a_wrong_key_is_tried_once(standin, make_client):
    with pytest.raises(ApiError) as failed:
        make_client(standin, key="K004wrong").groups()
    assert failed.value.code == "unauthorized"
    assert calls(standin) == {"b2_authorize_account": 1}


@pytest.mark.parametrize("location", ["code", "message"])
@pytest.mark.parametrize("form", ["key", "basic", "token"])
def test_an_error_that_repeats_the_credential_does_not_show_it(standin, make_client, group_id, form, location):
    key = "K004OnlyLettersAndDigits"
    client = make_client(standin, key=key if form != "token" else None)
    if form == "token":
        client.groups()
    secret = {
        "key": key,
        "basic": base64.b64encode(f"{standin.settings()['admin_key_id']}:{key}".encode()).decode(),
        "token": client._caller._session.token if client._caller._session else "",
    }[form]
    bodies = (
        [{"code": secret}, {"code": secret, "message": None}]
        if location == "code"
        else [{"code": "access_denied", "message": f"x {secret} y"}]
    )
    for body in bodies:
        standin.faults(
            [{"operation": "*", "times": None, "action": {"kind": "raw", "status": 401, "body": json.dumps(body)}}]
        )
        with pytest.raises(AnswerError if location == "code" else ApiError) as caught:
            list(client.members(group_id))
        assert secret not in str(caught.value) + repr(caught.value.facts)
        assert location == "code" or "x [hidden] y" in str(caught.value)


def test_a_credential_too_short_to_be_one_changes_no_verdict(standin, make_client):
    standin.faults(
        [
            {
                "operation": "*",
                "times": None,
                "action": {"kind": "error", "status": 401, "code": "unauthorized", "message": "a bad key"},
            }
        ]
    )
    with pytest.raises(ApiError, match="a bad key") as caught:
        make_client(standin, key="a").groups()
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize(
    "url", ["https://example.com", "http://example.com", "http://127.0.0.1@example.com", "file:///etc/passwd"]
)
def test_a_groups_url_of_another_owner_gets_no_token(standin, client, url):
    standin.settings(groups_api_url=url)
    with pytest.raises(AnswerError, match="groupsApiUrl"):
        client.groups()
    assert calls(standin) == {"b2_authorize_account": 1}


def test_the_admin_is_who_the_answer_says(standin, make_client):
    """What the user typed is only a key id; the service refuses a call with another adminAccountId."""
    standin.faults(
        [{"operation": "b2_authorize_account", "action": {"kind": "patch", "body": {"accountId": "ffffffffffff"}}}]
    )
    with pytest.raises(ApiError, match="adminAccountId"):
        make_client(standin).groups()


# Shapes and lists


@pytest.mark.parametrize("shape", ["object", "array"])
@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_whole_life_in_both_shapes_and_versions(standin, make_client, group_id, shape, version):
    standin.settings(shape=shape)
    client = make_client(standin, api_version=version)
    assert client.group_id("hosting") == group_id
    new = client.create_member(group_id, ALICE, "eu-central")
    (entry,) = standin.ledger()
    assert (new.key_id, new.key, new.complaint + new.doubt) == (entry["key_id"], entry["key"], "")
    assert (new.member.account_id, new.member.region, new.member.group_name) == (
        entry["account_id"],
        "eu-central",
        "hosting",
    )
    assert client.opens(new.key_id, new.key) == entry["account_id"]
    assert client.find_member(group_id, "ALICE@x.example").account_id == entry["account_id"]
    assert [member.email for member in client.members(group_id)] == [ALICE]
    assert client.eject_member(group_id, entry["account_id"]).account_id == entry["account_id"]
    assert client.members(group_id) == []
    # Authorize refuses some keys at v3, and takes every key at v4.
    assert {line["version"] for line in standin.log() if line["operation"] != "b2_authorize_account"} == {version}
    assert {line["version"] for line in standin.log() if line["operation"] == "b2_authorize_account"} == {"v4"}


def test_no_region_is_left_out_of_the_request(standin, client, group_id):
    """The stand-in refuses a null; the default is the service's."""
    assert client.create_member(group_id, ALICE).member.region == standin.settings()["default_region"]


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize("count", [0, 1, 1000, 2001])
def test_every_member_is_listed_once_whatever_the_last_page_says(standin, client, quirk, count):
    standin.settings(quirk_last_page=quirk)
    group = standin.add_group("big", members=count)
    found = client.members(group["id"])
    assert len(found) == len({member.account_id for member in found}) == count
    assert calls(standin)[LIST] <= count // 1000 + 2


def test_groups_over_several_pages(standin, client):
    for number in range(205):
        standin.add_group(f"g{number % 3}", id=f"id-{number:04d}")
    assert len(client.groups()) == 206
    assert {group.group_name for group in client.groups("g1")} == {"g1"}


def test_group_names(standin, client, group_id):
    twin = standin.add_group("hosting")["id"]
    with pytest.raises(OptionError) as ambiguous:
        client.group_id("hosting")
    assert group_id in str(ambiguous.value)
    assert twin in str(ambiguous.value)
    with pytest.raises(OptionError, match=r"no Group.*'Hosting'"):
        client.group_id("Hosting")


# Create: what is in the Group, what is known of it, and that there are never two

NEVER, MADE, LOST = "not created", "created", "created, key lost"
FAULTS = [
    # what happens to the first create: what has become of the address, and the code of the refusal
    ({"kind": "cut_before"}, MADE, None),
    ({"kind": "cut_after"}, LOST, None),
    ({"kind": "hang_before"}, MADE, None),
    ({"kind": "hang_after"}, LOST, None),
    ({"kind": "hang_after", "seconds": 0.01, "answer": False}, LOST, None),
    ({"kind": "truncate", "bytes": 10}, LOST, None),
    ({"kind": "truncate", "bytes": 50}, MADE, None),
    ({"kind": "truncate", "fraction": 0.9}, MADE, None),
    ({"kind": "empty"}, LOST, None),
    ({"kind": "empty", "execute": False}, MADE, None),
    ({"kind": "html"}, MADE, None),
    ({"kind": "html", "execute": True}, LOST, None),
    ({"kind": "html", "status": 401}, MADE, None),
    ({"kind": "raw", "body": "[[@BODY@]]"}, MADE, None),
    ({"kind": "raw", "body": ")]}',\n@BODY@"}, MADE, None),
    ({"kind": "raw", "body": '{"ok": true}'}, LOST, None),
    ({"kind": "patch", "body": {"groupMember": None}}, MADE, None),
    ({"kind": "patch", "body": {"groupMember": {"email": "../evil"}}}, MADE, None),
    ({"kind": "patch", "body": {"applicationKey": None}}, LOST, None),
    ({"kind": "redirect", "location": "https://example.com/"}, NEVER, ""),
    (
        {"kind": "raw", "status": 302, "headers": {"Location": "https://example.com/"}, "body": "", "execute": True},
        LOST,
        None,
    ),
    (
        {"kind": "raw", "status": 302, "headers": {"Location": "http://["}, "execute": True, "body": "@BODY@"},
        MADE,
        None,
    ),
    ({"kind": "raw", "headers": {"Content-Length": "9" * 5000}, "body": "@BODY@"}, MADE, None),
    ({"kind": "raw", "headers": {"Content-Length": "7, 8"}, "body": "@BODY@"}, MADE, None),
    ({"kind": "delay", "seconds": 0.01}, MADE, None),
    ({"kind": "endless", "limit_bytes": 100000}, LOST, None),
    ({"kind": "expire_token"}, MADE, None),
    ({"kind": "throttle"}, MADE, None),
    ({"kind": "throttle", "retry_after": "nonsense"}, MADE, None),
    *[({"kind": "error", "status": status}, MADE, None) for status in (408, 500, 502, 503, 504)],
    *[({"kind": "error", "status": status, "execute": True}, LOST, None) for status in (408, 500, 503)],
    ({"kind": "error", "status": 420, "code": "method_failure"}, MADE, None),
    ({"kind": "error", "status": 401, "code": "method_failure", "execute": True}, LOST, None),
    ({"kind": "error", "status": 401, "code": "bad_auth_token"}, MADE, None),
    *[
        ({"kind": "error", "status": 401, "code": code}, NEVER, code)
        for code in ("invalid_email", "invalid_region", "too_many_members", "invalid_sms_phone")
    ],
    ({"kind": "error", "status": 403, "code": "access_denied"}, NEVER, "access_denied"),
    ({"kind": "error", "status": 403, "code": "storage_cap_exceeded"}, NEVER, "storage_cap_exceeded"),
    ({"kind": "error", "status": 400, "code": "bad_request"}, NEVER, "bad_request"),
]


@pytest.mark.parametrize(
    "action, end, code",
    FAULTS,
    ids=[" ".join(map(str, action.values())).replace("\n", " ") for action, _end, _code in FAULTS],
)
def test_every_fault_of_a_create_is_told_as_what_it_was(standin, make_client, group_id, action, end, code):
    standin.faults([{"operation": CREATE, "action": action}])
    client = make_client(standin, timeout=0.5)
    try:
        new, failed = client.create_member(group_id, ALICE), None
    except B2Error as exc:
        new, failed = None, exc
    assert standin.faults()[0]["hits"] == 1
    there = accounts(standin)
    assert len(there) == (0 if end == NEVER else 1)
    if end == MADE:
        (entry,) = standin.ledger()
        assert failed is None
        assert new.key == entry["key"]
        # What an odd answer did not say is left for a look-up, never guessed.
        assert new.member.account_id in ("", there[0]["account_id"])
        assert new.doubt or (new.key_id, new.member.account_id) == (entry["key_id"], entry["account_id"])
        assert new.member.email == ALICE
    elif end == LOST:
        assert isinstance(failed, KeyLostError)
        assert failed.account_id == there[0]["account_id"]
    else:
        assert not isinstance(failed, KeyLostError)
        assert getattr(failed, "code", "") == code


# The right key for the right member

OUT_OF_STEP = [
    {"kind": "interim", "statuses": [103], "seconds": 0.02},
    {"kind": "interim", "statuses": [102, 103, 100], "seconds": 0.0},
    {"kind": "early", "status": 200, "body": "{}", "seconds": 0.02},
    {"kind": "early", "status": 204, "seconds": 0.02},
    {"kind": "early", "status": 200, "body": "", "seconds": 0.02},
    {"kind": "early", "status": 429, "body": '{"code": "too_many_requests"}', "seconds": 0.02},
    {"kind": "early", "status": 401, "body": '{"code": "expired_auth_token"}', "seconds": 0.02},
]


@pytest.mark.parametrize("action", OUT_OF_STEP, ids=lambda action: " ".join(map(str, action.values())))
def test_answers_that_come_early_late_or_twice_give_nobody_another_members_key(standin, make_client, group_id, action):
    standin.settings(latency_ms=10)
    standin.faults([{"operation": CREATE, "times": None, "probability": 0.5, "action": action}])
    client = make_client(standin, connections=4)

    def make(email):
        try:
            return client.create_member(group_id, email)
        except KeyLostError as exc:
            return exc

    emails = [f"m{number}@x.example" for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = dict(zip(emails, pool.map(make, emails), strict=True))
    handed_out = {entry["email"]: entry for entry in standin.ledger()}
    assert handed_out.keys() == set(emails)
    keys = {email: new for email, new in made.items() if not isinstance(new, KeyLostError)}
    assert all(new.key == handed_out[email]["key"] for email, new in keys.items())
    # A late answer that was there already is read behind the early one, and doubted.
    assert not any(new.doubt for new in keys.values()) or action["kind"] == "early"
    # What an interim answer comes before is the answer itself, so no key is lost by it.
    assert len(keys) == 40 or action["kind"] == "early"
    assert all(
        failed.account_id == handed_out[email]["account_id"] for email, failed in made.items() if email not in keys
    )


@pytest.mark.parametrize("location", ["instead", "before", "after"])
def test_no_connection_is_used_again_after_an_answer_that_is_not_exactly_the_members(
    standin, client, group_id, monkeypatch, location
):
    accepted = []
    made = standin_module.Connection.connection_made
    monkeypatch.setattr(
        standin_module.Connection,
        "connection_made",
        lambda self, transport: (accepted.append(1), made(self, transport))[1],
    )
    client.groups()
    client.create_member(group_id, "before@x.example")
    assert len(accepted) == 1
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "place": location}}])
    client.create_member(group_id, ALICE)
    client.groups()
    assert len(accepted) == 2


@pytest.mark.parametrize("status, code", [(401, "expired_auth_token"), (429, "too_many_requests")])
def test_an_eject_that_was_executed_and_then_refused_is_ours(standin, client, group_id, status, code):
    member = standin.add_member("hosting", ALICE)
    standin.faults([{"operation": EJECT, "action": {"kind": "error", "status": status, "code": code, "execute": True}}])
    assert client.eject_member(group_id, member["accountId"]).account_id == member["accountId"]
    assert client.eject_member(group_id, member["accountId"]) is None


@pytest.mark.parametrize("location", ["before", "after"])
def test_of_two_whole_answers_the_members_own_is_taken(standin, client, group_id, location):
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "place": location}}])
    new = client.create_member(group_id, ALICE)
    keys = {entry["email"]: entry["key"] for entry in standin.ledger()}
    assert (new.key, new.doubt) == (keys.pop(ALICE), "")
    assert [other.key for other in new.others] == list(keys.values())


@pytest.mark.parametrize(
    "parts, opens",
    [
        (["applicationKey", "applicationKeyId", "groupMember"], "another"),
        (["applicationKey", "applicationKeyId"], "another"),
        (["applicationKeyId"], ""),
        (["groupMember"], "own"),
    ],
)
def test_a_key_of_another_account_is_doubted_and_found_out(standin, client, group_id, parts, opens):
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "parts": parts}}])
    new = client.create_member(group_id, ALICE)
    assert new.doubt
    proof = client.prove(group_id, new)
    (own,) = accounts(standin)
    (another,) = (account for account in standin.state()["accounts"] if account["email"] != ALICE)
    assert proof.opens == {"own": own["account_id"], "another": another["account_id"], "": ""}[opens]
    assert proof.member.account_id == own["account_id"]


@pytest.mark.parametrize(
    "status, code", [(401, "expired_auth_token"), (401, "bad_auth_token"), (429, "too_many_requests")]
)
def test_a_key_in_an_answer_that_says_no_is_taken(standin, client, group_id, status, code):
    body = f'{{"status": {status}, "code": "{code}", "answer": @BODY@}}'
    standin.faults([{"operation": CREATE, "action": {"kind": "raw", "status": status, "execute": True, "body": body}}])
    new = client.create_member(group_id, ALICE)
    (entry,) = standin.ledger()
    assert (new.key_id, new.key, new.member.account_id) == (entry["key_id"], entry["key"], entry["account_id"])
    assert calls(standin)[CREATE] == 1


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize(
    "status, code", [(401, "expired_auth_token"), (401, "bad_auth_token"), (429, "too_many_requests")]
)
def test_a_create_that_was_executed_and_then_refused_is_found_out(
    standin, make_client, group_id, status, code, retries
):
    """Such a create is sent again, as it was most probably not executed. If it was, its key is lost."""
    standin.faults(
        [{"operation": CREATE, "action": {"kind": "error", "status": status, "code": code, "execute": True}}]
    )
    with pytest.raises(KeyLostError) as failed:
        make_client(standin, max_retries=retries).create_member(group_id, ALICE)
    (account,) = accounts(standin)
    assert failed.value.account_id == account["account_id"]


def test_a_refusal_that_meant_what_it_said_is_not_told_as_a_loss(standin, make_client, group_id):
    standin.faults([{"operation": CREATE, "times": None, "action": {"kind": "throttle"}}])
    with pytest.raises(ApiError) as failed:
        make_client(standin, max_retries=0).create_member(group_id, ALICE)
    assert failed.value.code == "too_many_requests"
    assert failed.value.may_have_acted
    assert accounts(standin) == []


@pytest.mark.parametrize("version", ["v3", "v4"])
@pytest.mark.parametrize("wrong", ["unauthorized", "bad_auth_token"])
def test_a_wrong_key_is_told_as_a_wrong_key_whatever_the_code(standin, make_client, version, wrong):
    standin.settings(wrong_key_code=wrong)
    with pytest.raises(ApiError) as failed:
        make_client(standin, key="K004wrong", api_version=version).groups()
    assert failed.value.code == wrong
    assert "The key id or the key is wrong" in str(failed.value)
    assert "token" not in str(failed.value).replace("bad_auth_token", "")
    assert make_client(standin).opens("0045f2a1c0b3d4e0000000001", "K004wrong") == ""


def test_a_key_that_is_restricted_to_buckets_is_tried_as_any_other(standin, make_client, group_id):
    """At v3 authorize refuses such a key, if it was made through v4."""
    member = standin.add_member("hosting", ALICE)
    key = standin.partner._new_key(member["accountId"], "us-west", "restricted")
    key.bucket_ids, key.made_at = ["bucket"], "v4"
    assert make_client(standin, api_version="v3").opens(key.id, key.secret) == member["accountId"]


@pytest.mark.parametrize(
    "code, says",
    [
        ("storage_cap_exceeded", "member's account"),
        ("access_denied", "member's account"),
        ("unsupported", "version of the API"),
    ],
)
def test_what_is_wrong_with_a_members_account_is_not_told_as_the_admins(standin, client, code, says):
    standin.faults([{"operation": "b2_authorize_account", "action": {"kind": "error", "status": 403, "code": code}}])
    with pytest.raises(ApiError) as failed:
        client.opens("0045f2a1c0b3d4e0000000001", "K004")
    assert says in str(failed.value)
    assert "admin" not in str(failed.value)


@pytest.mark.parametrize(
    "encoding, pack", [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("share", [1.0, 0.95])
def test_a_key_in_a_compressed_answer_is_found(standin, client, group_id, encoding, pack, share):
    """Uncompressed answers are asked for; a proxy may not care, and its answer may be cut short."""
    body = {
        "applicationKeyId": KEY_ID,
        "applicationKey": KEY,
        "groupMember": {"email": ALICE, "groupId": group_id, "accountId": "5f2a1c0b3d4e"},
    }
    packed = pack(json.dumps({**body, "padding": "".join(map(str, range(300)))}).encode())
    packed = packed[: int(len(packed) * share)]
    raw = {"kind": "raw", "body": packed.decode("utf-8", "surrogateescape"), "headers": {"Content-Encoding": encoding}}
    standin.faults([{"operation": CREATE, "action": raw}])
    new = client.create_member(group_id, ALICE)
    assert (new.key_id, new.key, new.member.account_id) == (KEY_ID, KEY, "5f2a1c0b3d4e")
    assert bool(new.doubt) is (share < 1)
    assert calls(standin)[CREATE] == 1


def test_a_text_like_a_key_on_an_error_page_is_no_key(standin, client, group_id):
    standin.faults(
        [{"operation": CREATE, "action": {"kind": "html", "status": 502, "body": f"<html>{KEY_ID} {KEY}</html>"}}]
    )
    new = client.create_member(group_id, ALICE)
    (entry,) = standin.ledger()
    assert (new.key_id, new.key) == (entry["key_id"], entry["key"])


def test_a_lost_answer_and_a_late_listing_are_not_told_as_a_foreign_address(standin, make_client, group_id):
    standin.settings(lag_seconds=3600)
    standin.faults([{"operation": CREATE, "action": {"kind": "cut_after"}}])
    with pytest.raises(KeyLostError) as failed:
        make_client(standin).create_member(group_id, ALICE)
    assert failed.value.account_id == ""
    assert len(accounts(standin)) == 1


def test_when_nothing_can_be_looked_up_the_account_may_exist(standin, make_client, group_id):
    standin.faults(
        [
            {"operation": CREATE, "action": {"kind": "cut_after"}},
            {"operation": LIST, "times": None, "action": {"kind": "error", "status": 500}},
        ]
    )
    with pytest.raises(KeyLostError) as failed:
        make_client(standin, max_retries=1).create_member(group_id, ALICE)
    assert failed.value.account_id == ""


def test_an_address_of_somebody_else(standin, client, group_id):
    standin.taken([ALICE])
    with pytest.raises(ApiError) as failed:
        client.create_member(group_id, ALICE)
    assert failed.value.code == "invalid_email"
    assert not failed.value.unclear


def test_a_refused_domain_is_tried_twice_and_no_oftener(standin, client, group_id):
    standin.settings(refused_domains=["x.example"])
    with pytest.raises(ApiError) as failed:
        client.create_member(group_id, ALICE)
    assert failed.value.code == "method_failure"
    assert calls(standin)[CREATE] == 2


def test_a_member_that_the_server_sorts_by_case_is_found_in_the_end(standin, client, group_id):
    standin.settings(case_sensitive_order=True)
    there = standin.add_member(group_id, "Alice@x.example")
    standin.add_member(group_id, "zoe@x.example")
    assert client.find_member(group_id, ALICE) is None
    with pytest.raises(MemberExistsError) as failed:
        client.create_member(group_id, ALICE)
    assert failed.value.member.account_id == there["accountId"]
    assert client.search_member(group_id, ALICE).account_id == there["accountId"]


def test_many_threads_create_each_member_once(standin, make_client, group_id):
    standin.settings(creates_per_second=1000)
    standin.faults([{"operation": "*", "times": None, "probability": 0.2, "action": {"kind": "error", "status": 503}}])
    client = make_client(standin, connections=8, max_retries=20)
    numbers = iter(range(8))
    made = in_threads(8, lambda: client.create_member(group_id, f"m{next(numbers)}@x.example"))
    assert {new.key for new in made} == {entry["key"] for entry in standin.ledger()}
    assert len(standin.state()["accounts"]) == 8


# Repeating


def test_a_throttled_call_waits_as_long_as_it_was_asked_to(standin, client):
    standin.faults([{"operation": "b2_list_groups", "action": {"kind": "throttle", "retry_after": 7}}])
    assert len(client.groups()) == 1
    assert max(client.waits) >= 7
    standin.faults([{"operation": "b2_list_groups", "action": {"kind": "throttle", "retry_after_date": 60}}])
    client.waits.clear()
    assert len(client.groups()) == 1
    assert max(client.waits) >= 58


@pytest.mark.parametrize("retries, most", [(0, 1), (5, 100)])
@pytest.mark.parametrize("asked", [{"retry_after": 0}, {"retry_after_date": -60}])
def test_being_asked_to_come_back_at_once_is_no_reason_to_ask_for_ever(standin, make_client, retries, most, asked):
    standin.faults([{"operation": "b2_list_groups", "times": 300, "action": {"kind": "throttle", **asked}}])
    with pytest.raises(ApiError) as failed:
        make_client(standin, max_retries=retries).groups()
    assert failed.value.code == "too_many_requests"
    assert calls(standin)["b2_list_groups"] <= most


@pytest.mark.parametrize(
    "action",
    [{"kind": "throttle", "retry_after": 7}, {"kind": "error", "status": 503, "headers": {"Retry-After": "7"}}],
)
def test_a_retry_after_holds_every_call_of_the_client(standin, client, group_id, action):
    standin.faults([{"operation": "b2_list_groups", "action": action}])
    assert len(client.groups()) == 1
    client.waits.clear()
    # The clock of the pace did not move, because the client waited without sleeping.
    client.create_member(group_id, ALICE)
    assert max(client.waits) > 6


def test_a_failure_that_asks_for_no_pause_holds_nobody_else(standin, client, group_id):
    standin.faults([{"operation": "b2_list_groups", "action": {"kind": "error", "status": 503}}])
    client.groups()
    client.waits.clear()
    client.create_member(group_id, ALICE)
    assert client.waits == []


def test_without_a_throttling_nobody_waits(standin, make_client, group_id):
    client = make_client(standin, connections=8)
    numbers = iter(range(64))
    in_threads(8, lambda: [client.create_member(group_id, f"m{next(numbers)}@x.example") for _number in range(8)])
    assert client.waits == []


def test_many_threads_that_are_throttled_at_once_slow_down_once(standin, make_client):
    client = make_client(standin, connections=8)
    client.authorize()
    # So long that all are on their way before the first is answered, on a busy machine too.
    standin.settings(latency_ms=1000)
    standin.faults([{"operation": "b2_list_groups", "times": 8, "action": {"kind": "throttle", "retry_after": 1}}])
    in_threads(8, client.groups)
    assert calls(standin)["b2_list_groups"] == 16
    assert client._caller.repeater._pace._first_era == 1


def test_the_gate_is_asked_after_the_wait_for_a_turn(standin, client, group_id):
    standin.faults([{"operation": CREATE, "action": {"kind": "throttle", "retry_after": 3}}])
    seen = []
    client._caller.repeater.wait = lambda seconds: seen.append("wait")
    client.create_member(group_id, ALICE, gate=lambda: seen.append("gate"))
    assert seen[0] == seen[-1] == "gate"
    assert seen.count("gate") == 2


def test_a_wish_to_stop_ends_the_wait_for_a_turn(standin, client, group_id):
    standin.faults([{"operation": "b2_list_groups", "action": {"kind": "throttle", "retry_after": 60}}])
    client.groups()

    def stop(seconds):
        raise StoppedError

    client._caller.repeater.wait = stop
    with pytest.raises(StoppedError):
        client.create_member(group_id, ALICE)
    assert CREATE not in calls(standin)


@pytest.mark.parametrize("pauses", [[40.0], [15.0, 15.0]])
def test_the_pauses_of_others_use_up_the_patience_of_a_throttled_call(standin, make_client, monkeypatch, pauses):
    """Or each of many calls would wait for all the others in turn, where the service throttles for ever."""
    client = make_client(standin, max_retries=1)
    client.authorize()
    now = [100.0]
    monkeypatch.setattr(retries, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds):
        now[0] += seconds
        if pauses[len(client.waits) :]:
            turn = client._caller.repeater._pace.turn(now[0])
            client._caller.repeater._note(turn, pauses[len(client.waits)])
        client.waits.append(seconds)

    client._caller.repeater.wait = wait
    standin.faults([{"operation": "b2_list_groups", "action": {"kind": "throttle", "retry_after": 40}}])
    with pytest.raises(ApiError) as failed:
        client.groups()
    assert failed.value.code == "too_many_requests"
    assert calls(standin)["b2_list_groups"] == 1
    assert now[0] < 200


def test_a_pause_beyond_all_patience_ends_every_call_at_once(standin, make_client):
    """Or thousands of members would each wait for it in turn."""
    client = make_client(standin, max_retries=2)
    client.authorize()
    standin.faults(
        [{"operation": "b2_list_groups", "times": None, "action": {"kind": "throttle", "retry_after": 4000}}]
    )
    with pytest.raises(ApiError) as failed:
        client.groups()
    assert failed.value.code == "too_many_requests"
    for _call in range(3):
        with pytest.raises(PatienceError, match=r"asks for a wait of \d{4} seconds") as failed:
            client.groups()
        assert "max_retries" in failed.value.explain()
    assert calls(standin)["b2_list_groups"] == 1 and client.waits == []


def test_a_pause_that_others_brought_about_does_not_end_a_call_that_is_never_sent_again(standin, make_client):
    client = make_client(standin, max_retries=0)
    client.authorize()
    standin.faults([{"operation": "b2_list_groups", "action": {"kind": "throttle", "retry_after": 5}}])
    with pytest.raises(ApiError):
        client.groups()
    assert client.groups() and 4 < sum(client.waits) < 10


def test_the_pauses_double_and_have_a_bound(standin, make_client):
    standin.faults([{"operation": "b2_list_groups", "times": None, "action": {"kind": "error", "status": 503}}])
    client = make_client(standin, max_retries=9)
    with pytest.raises(ApiError) as failed:
        client.groups()
    assert failed.value.code == "internal_error"
    assert calls(standin)["b2_list_groups"] == 10
    assert [0.5 <= wait / min(64, 2**number) <= 1.5 for number, wait in enumerate(client.waits)] == [True] * 9


def test_nobody_there(make_client, standin):
    client = make_client(standin, max_retries=2)
    standin.stop()
    with pytest.raises(NetworkError):
        client.groups()
    # max_retries holds for the whole call: authorizing on the way must not multiply it.
    assert len(client.waits) == 2


def test_a_wish_to_stop_ends_the_waiting(standin, make_client):
    standin.faults([{"operation": "b2_list_groups", "times": None, "action": {"kind": "error", "status": 503}}])
    client = make_client(standin)

    def stop(seconds):
        raise StoppedError

    client._caller.repeater.wait = stop
    with pytest.raises(StoppedError):
        client.groups()
    assert calls(standin)["b2_list_groups"] == 1


def test_a_listing_that_is_none_is_an_error_and_not_an_empty_list(standin, client, group_id):
    for body in ({"groupMembers": None}, {"groupMembers": "none"}, {"groupMembers": ["x"]}):
        for look in (client.members, lambda group: client.find_member(group, ALICE)):
            standin.faults([{"operation": LIST, "action": {"kind": "patch", "body": body}}])
            with pytest.raises(AnswerError):
                look(group_id)


# Eject


def test_eject_twice(standin, client, group_id):
    member = standin.add_member(group_id, ALICE)
    assert client.eject_member(group_id, member["accountId"]).account_id == member["accountId"]
    assert client.eject_member(group_id, member["accountId"]) is None
    assert standin.control("members") == []


def test_eject_gives_a_new_address(standin, client, group_id):
    member = standin.add_member(group_id, ALICE)
    client.eject_member(group_id, member["accountId"], "gone@y.example")
    assert [account["email"] for account in standin.state()["accounts"]] == ["gone@y.example"]


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "cut_after"},
        {"kind": "html", "execute": True},
        {"kind": "truncate"},
        {"kind": "error", "status": 500, "execute": True},
    ],
)
def test_an_unanswered_eject_that_happened_is_told_as_ours(standin, client, group_id, kind):
    member = standin.add_member(group_id, ALICE)
    standin.faults([{"operation": EJECT, "action": kind}])
    assert client.eject_member(group_id, member["accountId"]).account_id == member["accountId"]


def test_that_a_member_is_gone_is_confirmed_before_it_is_believed(standin, client, group_id):
    member = standin.add_member(group_id, ALICE)
    standin.faults(
        [{"operation": EJECT, "action": {"kind": "error", "status": 401, "code": "invalid_member_account_id"}}]
    )
    with pytest.raises(ApiError) as failed:
        client.eject_member(group_id, member["accountId"])
    assert failed.value.code == "invalid_member_account_id"
    assert len(standin.control("members")) == 1


def test_an_eject_without_an_answer_does_not_claim_that_nothing_changed(standin, make_client, group_id):
    member = standin.add_member(group_id, ALICE)
    standin.faults([{"operation": EJECT, "times": None, "action": {"kind": "hang_before"}}])
    with pytest.raises(B2Error, match="may have been ejected") as failed:
        make_client(standin, timeout=0.2, max_retries=1).eject_member(group_id, member["accountId"])
    assert "Nothing was changed" not in str(failed.value)
