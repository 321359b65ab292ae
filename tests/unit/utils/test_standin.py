# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judge of the other tests: what the stand-in says of the keys that it handed out, and whether they arrived."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import socket
import time

import pytest

AUTHORIZE = "b2_authorize_account"
CREATE = "b2_create_group_member"
LIST_MEMBERS = "b2_list_group_members"
ALICE = "alice@x.example"
BOB = "bob@y.example"


def basic(key_id, key):
    return "Basic " + base64.b64encode(f"{key_id}:{key}".encode()).decode()


class Caller:
    """Speaks to the stand-in with nothing of the collection in between."""

    def __init__(self, standin):
        self.standin = standin
        self.host = standin.url.removeprefix("http://")
        settings = standin.settings()
        status, answer = self.authorize(settings["admin_key_id"], settings["admin_key"])
        assert status == 200
        self.admin, self.token = answer["accountId"], answer["authorizationToken"]

    def authorize(self, key_id, key, method="GET", **options):
        return self.ask(method, AUTHORIZE, basic(key_id, key), **options)

    def ask(self, method, operation, authorization, body=None, timeout=5.0, version="v3"):
        """Return the status and the JSON, or the text, of the answer; None where there was none, or only a part."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            headers = {"Authorization": authorization, "User-Agent": "test"}
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/b2api/{version}/{operation}", payload, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    def fields(self, email=ALICE):
        """What a create needs."""
        return {"adminAccountId": self.admin, "groupId": self.standin.groups["hosting"], "memberEmail": email}

    def create(self, email=ALICE, **options):
        return self.ask("POST", CREATE, self.token, self.fields(email), **options)

    def request(self, operation, body):
        """Return a POST as it goes over the line."""
        payload = json.dumps(body)
        headers = {"User-Agent": "test", "Authorization": self.token, "Content-Length": len(payload)}
        head = [f"POST /b2api/v3/{operation} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*head, "", payload]).encode()


@pytest.fixture
def caller(standin):
    return Caller(standin)


class Line:
    """A connection, byte for byte, which does not tell the bytes of one request from those of another."""

    def __init__(self, host):
        self.socket = socket.create_connection(host.split(":"), timeout=5.0)
        self.taken = b""

    def send(self, request):
        self.socket.sendall(request)

    def take(self):
        """Wait for more, and return how many bytes that is."""
        more = self.socket.recv(65536)
        if not more:
            raise ConnectionError("closed")
        self.taken += more
        return len(more)

    def head(self):
        """Return the first line and the headers of what comes next."""
        while b"\r\n\r\n" not in self.taken:
            self.take()
        head, self.taken = self.taken.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        return first, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def response(self):
        """Return the first line, the headers and the body of what comes next."""
        first, headers = self.head()
        length = int(headers.get("content-length", 0))
        while len(self.taken) < length:
            self.take()
        body, self.taken = self.taken[:length], self.taken[length:]
        return first, headers, body.decode()


@pytest.fixture
def line(caller):
    made = Line(caller.host)
    with made.socket:
        yield made


def until(is_so):
    """Wait for what happens in the stand-in once nobody is at the other end of the line."""
    deadline = time.monotonic() + 5.0
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_key_that_was_handed_out_stands_in_the_ledger_as_it_was(standin, caller):
    for number in range(3):
        status, answer = caller.create(f"m{number}@x.example")
        entry = standin.ledger()[-1]
        assert status == 200
        assert (entry["operation"], entry["delivered"], entry["out_of_band"]) == (CREATE, True, False)
        assert (entry["email"], entry["account_id"]) == (f"m{number}@x.example", answer["groupMember"]["accountId"])
        assert (entry["key_id"], entry["key"]) == (answer["applicationKeyId"], answer["applicationKey"])
    entries = standin.ledger()
    for name in ("key", "account_id"):
        assert len(entries) == len({entry[name] for entry in entries}) == 3


KEY_ENDS = len('{"applicationKey":"K004') + 27

#: What becomes of a create: (is it executed, does its key arrive).
MADE = {
    "delay": ({"kind": "delay", "seconds": 0.01}, True),
    "late answer": ({"kind": "hang_after", "seconds": 0.01}, True),
    # Of all interim heads, this is the one that the client of these tests passes over.
    "after an interim head": ({"kind": "interim", "statuses": [100], "seconds": 0.01}, True),
    "dripping": ({"kind": "drip", "seconds": 0.001, "bytes": 64}, True),
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
    "behind an early answer": ({"kind": "early", "seconds": 0.01}, False),
    "behind an early answer without a body": ({"kind": "early", "status": 204, "seconds": 0.01}, False),
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


# -- the service --


def member_of(standin, caller, address=ALICE):
    """Return the key id and the key of a new member, and a call of its own: method, operation, fields."""
    made = standin.add_member("hosting", address)

    def ask(operation, version="v4", **fields):
        status, answer = caller.authorize(made["applicationKeyId"], made["applicationKey"], version="v4")
        assert status == 200
        return caller.ask("POST", operation, answer["authorizationToken"], fields, version=version)

    return made, ask


@pytest.mark.parametrize(
    "request_line, status",
    [
        ("GET /b2api/v3/b2_authorize_account HTTP/1.1", 401),
        ("GET /b2api/v3/nothing HTTP/1.1", 404),
        ("PUT /b2api/v3/b2_list_groups HTTP/1.1", 405),
        ("GET /_standin/state HTTP/1.1", 200),
        ("GET /_standin/nothing HTTP/1.1", 404),
        ("nonsense", 400),
    ],
)
def test_every_response_has_a_date(line, request_line, status):
    line.send(f"{request_line}\r\nUser-Agent: test\r\n\r\n".encode())
    first, headers, _body = line.response()
    assert first.split()[1] == str(status)
    said = email.utils.parsedate_to_datetime(headers["date"])
    assert headers["date"].endswith("GMT") and abs(said.timestamp() - time.time()) < 5


ANY = [action for action, _delivered in MADE.values()] + list(NOT_MADE.values())


@pytest.mark.parametrize("action", ANY, ids=[*MADE, *NOT_MADE])
def test_an_answer_with_a_fault_has_a_date_too(standin, caller, line, action):
    standin.faults([{"operation": CREATE, "action": action}])
    line.send(caller.request(CREATE, caller.fields()))
    with contextlib.suppress(ConnectionError):  # cut without an answer
        first, headers = line.head()
        while first.split()[1] < "200":
            first, headers = line.head()
        assert "date" in headers


def test_a_date_of_the_faults_own_stands_alone(standin, caller, line):
    long_ago = "Sun, 06 Nov 1994 08:49:37 GMT"
    standin.faults([{"operation": CREATE, "action": {"kind": "error", "status": 503, "headers": {"date": long_ago}}}])
    line.send(caller.request(CREATE, caller.fields()))
    line.take()
    assert line.taken.lower().count(b"\r\ndate: ") == 1 and line.head()[1]["date"] == long_ago


@pytest.mark.parametrize("version", ["v3", "v4"])
@pytest.mark.parametrize("method, body", [("GET", None), ("POST", None), ("POST", {})])
def test_authorize_takes_get_and_post(standin, caller, version, method, body):
    key = standin.settings()["admin_key"]
    status, answer = caller.authorize(caller.admin, key, method, body=body, version=version)
    assert status == 200 and answer["accountId"] == caller.admin
    assert caller.authorize(caller.admin, "wrong", method, body=body, version=version)[0] == 401


@pytest.mark.parametrize("path, body", [(AUTHORIZE, {"accountId": "x"}), (AUTHORIZE, []), (f"{AUTHORIZE}?a=b", None)])
def test_authorize_takes_no_fields(standin, caller, path, body):
    settings = standin.settings()
    answer = caller.ask("POST", path, basic(settings["admin_key_id"], settings["admin_key"]), body)
    assert answer[1]["code"] == "bad_request"


def test_what_has_fields_needs_a_body(caller):
    assert caller.ask("POST", "b2_list_groups", caller.token)[1]["code"] == "bad_request"


def test_null_is_as_good_as_left_out(standin, caller):
    group = standin.groups["hosting"]
    made = caller.ask("POST", CREATE, caller.token, {**caller.fields(), "region": None})[1]
    assert made["groupMember"]["region"] == "us-west"
    nulls = {
        "b2_list_groups": {"groupName": None, "startGroupId": None, "maxGroupCount": None},
        LIST_MEMBERS: {"groupId": group, "startEmail": None, "maxMemberCount": None},
    }
    for operation, fields in nulls.items():
        assert caller.ask("POST", operation, caller.token, {"adminAccountId": caller.admin, **fields})[0] == 200
    [member] = standin.control("members")
    fields = {"adminAccountId": caller.admin, "groupId": group, "memberAccountId": member["account_id"], "email": None}
    assert caller.ask("POST", "b2_eject_group_member", caller.token, fields)[1]["email"] == ALICE


@pytest.mark.parametrize("version, bucket", [("v3", "bucketId"), ("v4", "bucketIds")])
def test_null_is_as_good_as_left_out_in_an_account_too(standin, caller, version, bucket):
    made, ask = member_of(standin, caller)
    account = made["accountId"]
    nulls = {"validDurationInSeconds": None, "namePrefix": None, bucket: None}
    key = ask("b2_create_key", version, accountId=account, capabilities=["listKeys"], keyName="k", **nulls)[1]
    assert (key["expirationTimestamp"], key["namePrefix"], key[bucket]) == (None, None, None)
    listed = ask("b2_list_keys", version, accountId=account, maxKeyCount=None, startApplicationKeyId=None)[1]
    assert key["applicationKeyId"] in [row["applicationKeyId"] for row in listed["keys"]]
    assert caller.authorize(key["applicationKeyId"], key["applicationKey"])[0] == 200


@pytest.mark.parametrize(
    "operation, given",
    [
        (CREATE, "memberEmail"),
        (CREATE, "groupId"),
        (LIST_MEMBERS, "groupId"),
        ("b2_list_groups", "adminAccountId"),
        (CREATE, "unknown"),
    ],
)
def test_null_for_what_is_required_or_unknown_is_a_mistake(caller, operation, given):
    fields = caller.fields()
    if operation != CREATE:
        del fields["memberEmail"]
    if operation == "b2_list_groups":
        del fields["groupId"]
    status, answer = caller.ask("POST", operation, caller.token, {**fields, given: None})
    assert (status, answer["code"]) == (400, "bad_request") and given in answer["message"]


def test_a_wrong_key_has_two_codes(standin, caller):
    made, _ask = member_of(standin, caller)
    wrong = [("nobody", "x"), (standin.settings()["admin_key_id"], "x"), (made["applicationKeyId"], "x")]
    assert {caller.authorize(*credentials)[1]["code"] for credentials in wrong} == {"unauthorized"}
    standin.settings(wrong_key_code="bad_auth_token")
    for credentials in wrong:
        for version in ("v3", "v4"):
            status, answer = caller.authorize(*credentials, version=version)
            assert (status, answer["code"]) == (401, "bad_auth_token")
    assert caller.authorize(made["applicationKeyId"], made["applicationKey"])[0] == 200


@pytest.mark.parametrize("changes", [{"wrong_key_code": "forbidden"}, {"shape": "both"}, {"wrong_key_code": None}])
def test_a_setting_that_is_none_is_refused(standin, changes):
    before = standin.settings()
    with pytest.raises(Exception, match=next(iter(changes))):
        standin.settings(**changes)
    assert standin.settings() == before


def test_a_key_that_v4_restricted_to_buckets_authorizes_at_v4_only(standin, caller):
    made, ask = member_of(standin, caller)
    fields = {"accountId": made["accountId"], "capabilities": ["listBuckets"], "keyName": "k"}
    of_v3 = ask("b2_create_key", "v3", **fields, bucketId="b1")[1]
    of_v4 = ask("b2_create_key", "v4", **fields, bucketIds=["b1", "b2"])[1]
    free = ask("b2_create_key", "v4", **fields)[1]
    for key in (of_v3, of_v4, free):
        assert caller.authorize(key["applicationKeyId"], key["applicationKey"], version="v4")[0] == 200
    for key in (of_v3, free):
        assert caller.authorize(key["applicationKeyId"], key["applicationKey"])[0] == 200
    tokens = standin.tokens_handed_out()
    status, answer = caller.authorize(of_v4["applicationKeyId"], of_v4["applicationKey"])
    assert (status, answer["code"]) == (400, "bad_request")
    assert "not currently supported on API version number 3" in answer["message"]
    assert standin.tokens_handed_out() == tokens
    # With a wrong key nothing is told of the right one.
    assert caller.authorize(of_v4["applicationKeyId"], "wrong")[0] == 401


def test_there_are_no_buckets(standin, caller):
    made, ask = member_of(standin, caller)
    account = made["accountId"]
    assert ask("b2_list_buckets", accountId=account, bucketId=None, bucketTypes=["all"])[1] == {"buckets": []}
    fields = {"accountId": account, "capabilities": ["listBuckets"], "keyName": "k", "bucketIds": ["b1"]}
    key = ask("b2_create_key", **fields)[1]
    token = caller.authorize(key["applicationKeyId"], key["applicationKey"], version="v4")[1]["authorizationToken"]
    named = caller.ask("POST", "b2_list_buckets", token, {"accountId": account, "bucketId": "b1"}, version="v4")
    assert named == (200, {"buckets": []})
    refused = caller.ask("POST", "b2_list_buckets", token, {"accountId": account}, version="v4")[1]
    assert refused["code"] == "unauthorized"


def test_arrays_and_objects_are_mixed(standin, caller):
    standin.settings(shape="mixed")
    assert isinstance(caller.authorize(caller.admin, standin.settings()["admin_key"])[1], dict)
    [made] = caller.create()[1]
    fields = {"adminAccountId": caller.admin, "groupId": standin.groups["hosting"]}
    [listed] = caller.ask("POST", LIST_MEMBERS, caller.token, fields)[1]
    assert [row["email"] for row in listed["groupMembers"]] == [made["groupMember"]["email"]] == [ALICE]
    assert caller.create()[1]["code"] == "invalid_email"
    assert "groups" in caller.ask("POST", "b2_list_groups", caller.token, {"adminAccountId": caller.admin})[1]
    fields = {
        "adminAccountId": caller.admin,
        "groupId": standin.groups["hosting"],
        "memberAccountId": made["groupMember"]["accountId"],
    }
    assert caller.ask("POST", "b2_eject_group_member", caller.token, fields)[1]["email"] == ALICE


# -- what the line carries --


@pytest.mark.parametrize("statuses, headers", [(None, {}), ([103, 102], {"link": "</x>"}), ([100], {})], ids=str)
def test_interim_heads_come_before_the_answer_and_are_nothing_else(standin, caller, line, statuses, headers):
    action = {"kind": "interim", "seconds": 0.1, "headers": headers, **({"statuses": statuses} if statuses else {})}
    standin.faults([{"operation": CREATE, "action": action}])
    began = time.monotonic()
    line.send(caller.request(CREATE, caller.fields()))
    reasons = {100: "Continue", 102: "Processing", 103: "Early Hints"}
    for status in statuses or [103]:
        assert line.head() == (f"HTTP/1.1 {status} {reasons[status]}", headers)
    assert len(standin.ledger()) == 1
    first, headers, body = line.response()
    assert time.monotonic() - began >= 0.1
    assert first == "HTTP/1.1 200 OK" and "date" in headers
    until(lambda: standin.ledger()[0]["delivered"])
    assert json.loads(body)["applicationKey"] == standin.ledger()[0]["key"]


#: An early answer: (arguments, its first line, its Content-Length, its body).
EARLY = {
    "as it is": ({}, "HTTP/1.1 200 OK", "2", "{}"),
    "without a body": ({"body": ""}, "HTTP/1.1 200 OK", "0", ""),
    "no content": ({"status": 204}, "HTTP/1.1 204 No Content", None, ""),
    "refused": (
        {"status": 500, "body": "[1]", "headers": {"X-Id": "7"}},
        "HTTP/1.1 500 Internal Server Error",
        "3",
        "[1]",
    ),
}


@pytest.mark.parametrize("arguments, status_line, length, said", EARLY.values(), ids=EARLY)
def test_the_true_answer_comes_behind_an_early_one(standin, caller, line, arguments, status_line, length, said):
    standin.faults([{"operation": CREATE, "action": {"kind": "early", "seconds": 0.1, **arguments}}])
    began = time.monotonic()
    line.send(caller.request(CREATE, caller.fields()))
    first, headers, body = line.response()
    assert (first, headers.get("content-length"), body) == (status_line, length, said)
    assert "date" in headers and ("x-id" in headers) == ("headers" in arguments)
    [entry] = standin.ledger()
    # The next request of this client gets, as its answer, what belongs to the one before.
    line.send(caller.request("b2_list_groups", {"adminAccountId": caller.admin}))
    assert json.loads(line.response()[2])["applicationKey"] == entry["key"]
    assert time.monotonic() - began >= 0.1
    assert json.loads(line.response()[2])["groups"]
    assert not standin.ledger()[0]["delivered"]
    assert [(row["operation"], row["fault"], row["status"]) for row in standin.log()[1:]] == [
        (CREATE, "early", int(status_line.split()[1])),
        ("b2_list_groups", None, 200),
    ]


def test_a_client_may_leave_between_an_early_answer_and_the_true_one(standin, caller):
    standin.faults([{"operation": CREATE, "action": {"kind": "early", "seconds": 30.0}}])
    assert caller.create() == (200, {})
    until(lambda: len(standin.log()) == 2)
    assert [entry["delivered"] for entry in standin.ledger()] == [False]


def test_an_answer_drips(standin, caller, line):
    standin.faults([{"operation": CREATE, "action": {"kind": "drip", "seconds": 0.02, "bytes": 50}}])
    began = time.monotonic()
    line.send(caller.request(CREATE, caller.fields()))
    assert line.take() % 50 == 0 and line.taken.startswith(b"HTTP/1.1 200 OK")
    _first, headers, body = line.response()
    assert time.monotonic() - began >= 4 * 0.02
    assert "date" in headers and json.loads(body)["applicationKey"] == standin.ledger()[0]["key"]
    until(lambda: standin.ledger()[0]["delivered"])
    line.send(caller.request("b2_list_groups", {"adminAccountId": caller.admin}))
    assert line.response()[0] == "HTTP/1.1 200 OK"


def test_who_leaves_while_it_drips_has_no_key(standin, caller, line):
    standin.faults([{"operation": CREATE, "action": {"kind": "drip"}}])
    line.send(caller.request(CREATE, caller.fields()))
    line.take()
    assert b"HTTP/1.1 200 OK\r\n".startswith(line.taken)
    line.socket.close()
    until(lambda: len(standin.log()) == 2)
    assert [entry["delivered"] for entry in standin.ledger()] == [False]


# -- another account's key --


@pytest.mark.parametrize("shape", ["object", "mixed"])
@pytest.mark.parametrize(
    "parts",
    [None, ["applicationKey"], ["applicationKeyId"], ["groupMember"], ["applicationKey", "applicationKeyId"]],
    ids=str,
)
def test_parts_of_an_answer_are_those_of_another_account(standin, caller, shape, parts):
    standin.settings(shape=shape)
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", **({"parts": parts} if parts else {})}}])
    answer = caller.create()[1]
    if shape == "mixed":
        [answer] = answer
    mine, foreign = standin.ledger()
    assert (mine["operation"], mine["email"], mine["out_of_band"]) == (CREATE, ALICE, False)
    assert (foreign["email"], foreign["group_id"], foreign["out_of_band"]) == (
        "foreign-1@x.example",
        mine["group_id"],
        True,
    )
    names = ("applicationKey", "applicationKeyId", "groupMember")
    whose = {name: foreign if name in (parts or names) else mine for name in names}
    assert answer["applicationKey"] == whose["applicationKey"]["key"]
    assert answer["applicationKeyId"] == whose["applicationKeyId"]["key_id"]
    assert answer["groupMember"]["email"] == whose["groupMember"]["email"]
    assert answer["groupMember"]["accountId"] == whose["groupMember"]["account_id"]
    assert (mine["delivered"], foreign["delivered"]) == (
        whose["applicationKey"] is mine,
        whose["applicationKey"] is foreign,
    )
    assert {row["email"] for row in standin.control("members")} == {ALICE, "foreign-1@x.example"}


@pytest.mark.parametrize("shape", ["object", "array"])
@pytest.mark.parametrize("location", ["before", "after"])
def test_two_whole_answers_come_at_once(standin, caller, shape, location):
    standin.settings(shape=shape)
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "place": location}}])
    answers = caller.create()[1]
    emails = [answer["groupMember"]["email"] for answer in answers]
    assert emails == (["foreign-1@x.example", ALICE] if location == "before" else [ALICE, "foreign-1@x.example"])
    by_email = {entry["email"]: entry for entry in standin.ledger()}
    for answer in answers:
        entry = by_email[answer["groupMember"]["email"]]
        assert (answer["applicationKey"], answer["applicationKeyId"]) == (entry["key"], entry["key_id"])
        assert entry["delivered"]


def test_a_foreign_account_is_a_new_one_each_time(standin, caller):
    standin.taken(["foreign-2@x.example"])
    standin.faults([{"operation": CREATE, "times": 2, "action": {"kind": "foreign"}}])
    caller.create()
    caller.create("carol@x.example")
    emails = [entry["email"] for entry in standin.ledger()]
    assert emails == [ALICE, "foreign-1@x.example", "carol@x.example", "foreign-3@x.example"]


def test_a_foreign_account_can_be_one_that_is_there(standin, caller):
    made = standin.add_member("hosting", BOB)
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "of": BOB.upper()}}])
    answer = caller.create()[1]
    assert (answer["applicationKey"], answer["groupMember"]["email"]) == (made["applicationKey"], BOB)
    assert [(entry["email"], entry["delivered"]) for entry in standin.ledger()] == [(BOB, True), (ALICE, False)]


def test_a_foreign_account_can_be_one_whose_key_nobody_has_had(standin, caller):
    standin.add_group("full", members=1)
    [member] = standin.control("members")
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "of": member["email"]}}])
    answer = caller.create()[1]
    mine, foreign = standin.ledger()
    assert (foreign["email"], foreign["key"]) == (member["email"], answer["applicationKey"])
    assert foreign["out_of_band"] and foreign["delivered"] and not mine["delivered"]


def test_a_refused_create_has_no_foreign_account(standin, caller):
    standin.taken([ALICE])
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign"}}])
    assert caller.create()[1]["code"] == "invalid_email"
    assert standin.ledger() == []


def test_a_foreign_account_that_is_nowhere_is_the_tests_mistake(standin, caller, capfd):
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "of": BOB}}])
    status, answer = caller.create()
    assert (status, answer["code"]) == (500, "standin_broken") and standin.ledger() == []
    assert BOB in capfd.readouterr().err


@pytest.mark.parametrize(
    "operation, action",
    [
        ("*", {"kind": "foreign"}),
        ("b2_create_key", {"kind": "foreign"}),
        (CREATE, {"kind": "foreign", "parts": []}),
        (CREATE, {"kind": "foreign", "parts": ["key"]}),
        (CREATE, {"kind": "foreign", "place": "beside"}),
        (CREATE, {"kind": "foreign", "place": "after", "parts": ["groupMember"]}),
        (CREATE, {"kind": "drip", "bytes": 0}),
        (CREATE, {"kind": "early", "statuses": [200]}),
        (CREATE, {"kind": "interim", "status": 103}),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused(standin, operation, action):
    with pytest.raises(Exception, match="bad rule"):
        standin.faults([{"operation": operation, "action": action}])
