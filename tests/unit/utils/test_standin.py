# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judge of the other tests: what the stand-in says of the keys that it handed out, and whether they arrived."""

from __future__ import annotations

import base64
import http.client
import json

import pytest

CREATE = "b2_create_group_member"
ALICE = "alice@x.example"


class Caller:
    """Speaks to the stand-in with nothing of the collection in between."""

    def __init__(self, standin):
        self.standin = standin
        self.host = standin.url.removeprefix("http://")
        settings = standin.settings()
        basic = base64.b64encode(f"{settings['admin_key_id']}:{settings['admin_key']}".encode()).decode()
        status, answer = self.ask("GET", "b2_authorize_account", f"Basic {basic}")
        assert status == 200
        self.admin, self.token = answer["accountId"], answer["authorizationToken"]

    def ask(self, method, operation, authorization, body=None, timeout=5.0):
        """Return the status and the JSON, or the text, of the answer; None where there was none, or only a part."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            headers = {"Authorization": authorization, "User-Agent": "test"}
            connection.request(method, f"/b2api/v3/{operation}", json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def create(self, email=ALICE, **options):
        fields = {"adminAccountId": self.admin, "groupId": self.standin.groups["hosting"], "memberEmail": email}
        return self.ask("POST", CREATE, self.token, fields, **options)


@pytest.fixture
def caller(standin):
    return Caller(standin)


def test_a_key_that_was_handed_out_stands_in_the_ledger_as_it_was(standin, caller):
    for number in range(3):
        status, answer = caller.create(f"m{number}@x.example")
        entry = standin.ledger()[-1]
        assert status == 200
        assert (entry["operation"], entry["delivered"], entry["out_of_band"]) == (CREATE, True, False)
        assert (entry["email"], entry["account_id"]) == (f"m{number}@x.example", answer["groupMember"]["accountId"])
        assert (entry["key_id"], entry["key"]) == (answer["applicationKeyId"], answer["applicationKey"])
    entries = standin.ledger()
    assert len(entries) == len({entry["key"] for entry in entries}) == len({entry["account_id"] for entry in entries}) == 3


KEY_ENDS = len('{"applicationKey":"K004') + 27

#: What becomes of a create: (is it executed, does its key arrive).
MADE = {
    "delay": ({"kind": "delay", "seconds": 0.01}, True),
    "late answer": ({"kind": "hang_after", "seconds": 0.01}, True),
    "in another body": ({"kind": "raw", "body": "[@BODY@]"}, True),
    "patched elsewhere": ({"kind": "patch", "body": {"groupMember": None}}, True),
    "cut_after": ({"kind": "cut_after"}, False),
    "closed after": ({"kind": "hang_after", "seconds": 0.01, "answer": False}, False),
    "cut within the key": ({"kind": "truncate", "bytes": KEY_ENDS - 1}, False),
    # All of the key is in the socket, but of an answer that is cut nobody can say what of it arrives.
    "cut behind the key": ({"kind": "truncate", "bytes": KEY_ENDS + 1}, False),
    "empty": ({"kind": "empty"}, False),
    "page": ({"kind": "html", "status": 200}, False),
    "executed and refused": ({"kind": "error", "status": 500, "execute": True}, False),
    "key taken out": ({"kind": "patch", "body": {"applicationKey": None}}, False),
    "key replaced": ({"kind": "patch", "body": {"applicationKey": "K004another"}}, False),
}
NOT_MADE = {
    "cut_before": {"kind": "cut_before"},
    "closed before": {"kind": "hang_before", "seconds": 0.01},
    "error": {"kind": "error", "status": 500},
    "throttle": {"kind": "throttle"},
    "page": {"kind": "html"},
    "redirect": {"kind": "redirect", "location": "/"},
    "token expires": {"kind": "expire_token"},
}


@pytest.mark.parametrize("action, delivered", MADE.values(), ids=MADE)
def test_what_was_made_is_in_the_ledger_and_delivered_is_what_arrived(standin, caller, action, delivered):
    standin.faults([{"operation": CREATE, "action": action}])
    answer = caller.create()
    [entry] = standin.ledger()
    assert [member["account_id"] for member in standin.control("members")] == [entry["account_id"]]
    assert entry["delivered"] is delivered
    assert (answer is not None and entry["key"] in json.dumps(answer)) is delivered


@pytest.mark.parametrize("action", NOT_MADE.values(), ids=NOT_MADE)
def test_what_was_not_made_is_not_in_the_ledger(standin, caller, action):
    standin.faults([{"operation": CREATE, "action": action}])
    caller.create()
    assert standin.ledger() == [] and standin.control("members") == []


def test_what_was_refused_is_not_in_the_ledger(standin, caller):
    standin.taken([ALICE])
    assert caller.create()[1]["code"] == "invalid_email"
    assert standin.ledger() == []


def test_a_client_that_did_not_wait_has_no_key(standin, caller):
    standin.faults([{"operation": CREATE, "action": {"kind": "hang_after", "seconds": 5.0}}])
    assert caller.create(timeout=0.2) is None
    [entry] = standin.ledger()
    assert not entry["delivered"]


def test_a_member_that_somebody_else_made_is_told_apart(standin):
    made = standin.add_member("hosting", ALICE)
    [entry] = standin.ledger()
    assert entry["key"] == made["applicationKey"] and entry["out_of_band"] and not entry["delivered"]
    assert entry["operation"] != CREATE


def test_every_token_is_told(standin, caller):
    assert standin.tokens_handed_out() == [caller.token]
    other = Caller(standin)
    assert set(standin.tokens_handed_out()) == {caller.token, other.token}
