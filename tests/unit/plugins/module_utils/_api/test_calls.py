# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Authorize, and calls with the token, against a transport that answers from a script."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import problem
from ansible_collections.community.backblaze.plugins.module_utils._api.calls import (
    AUTHORIZE,
    Caller,
    Handling,
    Service,
    accept_object,
)
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, ApiError, NetworkError

REALM = "http://127.0.0.1:1"
SERVICE = Service("the service", "storageApi", "apiUrl", version="v4", account_field="accountId", remedy="")
CALL = "b2_list_buckets"


def session(**fields):
    body = {"accountId": "account", "authorizationToken": "token", "apiInfo": {"storageApi": {"apiUrl": REALM}}}
    return 200, {**body, **fields}


class Wire:
    """A transport that sends the next answers: (status, body), or an error; ``sent`` has what was asked for."""

    def __init__(self, *answers):
        self.answers, self.sent = [*answers], []

    def send(self, method, url, *, auth, is_sound, query=None, body=None):
        answer = self.answers.pop(0)
        self.sent.append((method, url.rpartition("/")[2], getattr(auth, "_token", None), query))
        if isinstance(answer, Exception):
            raise answer
        status, content = answer
        answer = Answer(status, {}, content if isinstance(content, bytes) else json.dumps(content).encode())
        is_sound(answer)
        return answer

    def caller(self, **options):
        return Caller(self, Repeater(0), realm=REALM, key_id="id", key="key", **options)


VISIBLE = set(string.ascii_letters + string.digits + string.punctuation)


@given(
    account=st.sampled_from(["account", 123, "", None, [], "x" * 5000]),
    token=st.text() | st.text(st.sampled_from("ab \t\x7f\u00e9"), max_size=3) | st.sampled_from([None, 7, ["token"]]),
)
@example("account", "a b")
@example("account", "a\tb")
@example("account", "a\u00e9")
@example("account", "4_abc=+/")
def test_only_a_token_that_can_be_a_header_is_taken(account, token):
    wire = Wire(session(accountId=account, authorizationToken=token))
    usable = (
        account in ("account", 123) and token and (token == 7 or (isinstance(token, str) and set(token) <= VISIBLE))
    )
    if usable:
        made = wire.caller().authorize()
        assert (made.account_id, made.token) == (str(account), str(token))
    else:
        with pytest.raises(AnswerError, match=r"without a usable account id and token.*Check the realm"):
            wire.caller().authorize()


@given(
    status=st.sampled_from([100, 199, 200, 201, 299, 300, 302, 400, 500]) | st.integers(100, 599),
    body=st.sampled_from([b"", b"{", b"null", b"7", b"[]", b"{}", b'{"a": 1}', b'[{"a": 1}]', b'[{"a": 1}, {}]']),
    complete=st.booleans(),
)
@example(199, b'{"a": 1}', True)
@example(200, b'{"a": 1}', True)
@example(299, b'{"a": 1}', True)
@example(300, b'{"a": 1}', True)
def test_only_an_object_of_a_whole_successful_answer_is_taken(status, body, complete):
    taken = 200 <= status <= 299 and complete and body in (b'{"a": 1}', b'[{"a": 1}]')
    assert accept_object(Answer(status, {}, body, complete)) == ({"a": 1} if taken else None)


REFUSALS = [(401, {"code": "expired_auth_token"}), (401, {"code": "bad_auth_token"})]


@pytest.mark.parametrize("of_member", [False, True])
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("again", [False, True])
def test_a_refused_token_is_renewed_once_and_told_before(refusal, again, of_member):
    second = refusal if again else (200, {"a": 1})
    wire = Wire(session(), refusal, session(authorizationToken="second"), second)
    told = []
    how = Handling(accept_object, resend=lambda error: told.append((error, len(wire.sent))))
    caller = wire.caller(of_member=of_member)
    try:
        assert caller.operate(SERVICE, "GET", CALL, {"more": 1}, how) == {"a": 1}
        assert not again
    except ApiError as exc:
        assert again
        told.append((exc, None))
    query = {"accountId": "account", "more": 1}
    assert wire.sent == [
        ("GET", AUTHORIZE, None, None),
        ("GET", CALL, "token", query),
        ("GET", AUTHORIZE, None, None),
        ("GET", CALL, "second", query),
    ]
    # The answer is told before the call is sent again, and before it fails.
    assert [place for _error, place in told] == [2] + ([4, None] if again else [])
    expected = problem(CALL, Answer(refusal[0], {}, json.dumps(refusal[1]).encode()), of_member=of_member)
    assert {error.explain() for error, _place in told} == {expected.explain()}


@pytest.mark.parametrize("renewed", [False, True])
def test_an_authorize_without_an_answer_has_not_sent_the_call(renewed):
    """The token was refused, so nothing has to be found out before the call is repeated."""
    lost = NetworkError("cut", sent=True)
    wire = Wire(*([session(), REFUSALS[0]] if renewed else []), lost)
    settled = []
    with pytest.raises(NetworkError) as failed:
        wire.caller().operate(SERVICE, "GET", CALL, {}, Handling(accept_object, settle=settled.append))
    assert failed.value is lost and lost.sent is not renewed
    assert settled == []


@pytest.mark.parametrize("sure", [False, True])
def test_a_connection_is_used_again_only_if_the_value_is_certainly_the_one_that_was_asked_for(sure):
    wire, sound = Wire(session(), (200, {"a": 1}), (200, [])), []
    send = wire.send
    wire.send = lambda *args, is_sound, **options: send(
        *args, is_sound=lambda answer: sound.append(is_sound(answer)), **options
    )
    how = Handling(accept_object, is_sure=lambda value: value == {"a": 1} and sure)
    caller = wire.caller()
    assert caller.operate(SERVICE, "GET", CALL, {}, how) == {"a": 1}
    with pytest.raises(AnswerError):
        caller.operate(SERVICE, "GET", CALL, {}, how)
    assert sound == [True, sure, False]
