# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an answer means, and that no answer can hide a key."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import (
    Verdict,
    account_in,
    find_new_member,
    judge,
    problem,
    refuses_token,
    retry_after,
)
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import MAX_BODY, Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, ApiError

KEY = "K004abc/DEF+ghi_JKL-mno/PQRstuv"
KEY_ID = "0045f2a1c0b3d4e0000000001"
EMAIL = "alice@x.example"
MEMBER = {
    "accountId": "5f2a1c0b3d4e",
    "email": EMAIL,
    "groupId": "100001",
    "groupName": "hosting",
    "region": "us-west",
    "s3Endpoint": "s3.us-west-004.backblazeb2.com",
}


def answer(status, body=b"", complete=True, **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, headers, raw, complete)


def error(status, code):
    return answer(status, {"status": status, "code": code, "message": "m"})


# Taken from Backblaze's table by hand; "too_many_requests" and the like are what its gateways say.
BY_CODE = {
    "bad_request": Verdict.REFUSED,
    "bad_auth_token": Verdict.RENEW,
    "expired_auth_token": Verdict.RENEW,
    "unauthorized": Verdict.REFUSED,
    "invalid_group_id": Verdict.REFUSED,
    "invalid_email": Verdict.REFUSED,
    "invalid_region": Verdict.REFUSED,
    "too_many_members": Verdict.REFUSED,
    "out_of_range": Verdict.REFUSED,
    "invalid_member_account_id": Verdict.REFUSED,
    "invalid_sms_phone": Verdict.REFUSED,
    "method_failure": Verdict.UNCLEAR,
    "access_denied": Verdict.REFUSED,
    "storage_cap_exceeded": Verdict.REFUSED,
    "transaction_cap_exceeded": Verdict.REFUSED,
    "too_many_requests": Verdict.THROTTLED,
    "request_timeout": Verdict.UNCLEAR,
    "internal_error": Verdict.UNCLEAR,
    "bad_gateway": Verdict.UNCLEAR,
    "service_unavailable": Verdict.UNCLEAR,
    "gateway_timeout": Verdict.UNCLEAR,
}


@pytest.mark.parametrize("status", [400, 401, 403, 420, 503])
@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_the_code_decides_and_not_the_status(code, status):
    assert judge(error(status, code)) is BY_CODE[code]
    assert refuses_token(error(status, code)) is (code in ("bad_auth_token", "expired_auth_token"))
    told = problem("b2_create_group_member", error(status, code))
    assert isinstance(told, ApiError)
    assert (told.code, told.status) == (code, status)
    assert told.unclear is (BY_CODE[code] is Verdict.UNCLEAR)
    assert told.explain() == problem("b2_create_group_member", error(status, code), of_member=False).explain()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Oops</html>",
        b'{"status": 401, "code": "inv',
        b"[]",
        b"7",
        b"\xff\xfe",
        b'{"code": 5}',
        b'{"code": "two words"}',
        b"[" * 100000,
    ],
)
@pytest.mark.parametrize(
    "status, verdict",
    [
        (400, Verdict.UNCLEAR),
        (401, Verdict.UNCLEAR),
        (403, Verdict.UNCLEAR),
        (420, Verdict.UNCLEAR),
        (408, Verdict.UNCLEAR),
        (429, Verdict.THROTTLED),
    ]
    + [
        (500, Verdict.UNCLEAR),
        (502, Verdict.UNCLEAR),
        (503, Verdict.UNCLEAR),
        (504, Verdict.UNCLEAR),
        (302, Verdict.FUTILE),
        (307, Verdict.FUTILE),
    ],
)
def test_without_a_code_only_the_status_is_left(status, verdict, body):
    assert judge(answer(status, body)) is verdict


def test_an_unknown_code_is_a_no_only_in_a_client_error():
    assert judge(error(401, "brand_new_code")) is Verdict.REFUSED
    assert judge(error(500, "brand_new_code")) is Verdict.UNCLEAR
    assert "brand_new_code" in str(problem("b2_list_groups", error(401, "brand_new_code")))


def test_a_success_counts_only_if_all_of_it_can_be_read():
    assert judge(answer(200, {"a": 1})) is Verdict.DONE
    assert judge(answer(200, [{"a": 1}])) is Verdict.DONE
    assert judge(answer(200, {"a": 1}, complete=False)) is Verdict.UNCLEAR
    for body in (b"", b"<html>", b'{"a": '):
        assert judge(answer(200, body)) is Verdict.UNCLEAR
        assert isinstance(problem("b2_list_groups", answer(200, body)), AnswerError)


def test_a_message_of_the_service_stays_on_one_line():
    told = str(problem("b2_list_groups", answer(401, {"code": "unauthorized", "message": "a\nb\x1b[31m" + "x" * 5000})))
    assert told.isprintable()
    assert len(told) < 1000


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("0", 0),
        ("7", 7),
        (" 2.5 ", 2.5),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60),
        ("Fri, 02 Jan 2026 04:05:05 +0100", 60),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("9" * 40, None),
        ("Fri, 99 Foo 2026", None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(answer(429, **{"Retry-After": value}), NOW) == seconds


def test_no_retry_after_at_all():
    assert retry_after(answer(429), NOW) is None


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"\w{3}, \d{1,2} (Jan|Feb) \d{1,20} \d\d:\d\d:\d\d [+-]\d{1,20}", fullmatch=True),
        st.from_regex(r"[A-Za-z0-9:,+ -]{0,40}", fullmatch=True),
    )
)
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999999999")
@example("Mon, 01 Jan 99999999999999 00:00:00 GMT")
def test_retry_after_is_a_wait_or_nothing_whatever_is_sent(value):
    seconds = retry_after(answer(429, **{"Retry-After": value}), NOW)
    assert seconds is None or seconds >= 0


# The key in the create answer

JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(alphabet='abcXYZ "\\/{}[]:,\u00e9\ud83d\n0', max_size=8),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abcdef", max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(found, key_id=KEY_ID):
    assert found is not None
    assert found.key == KEY
    assert found.key_id == key_id
    # These two name directory and Group: they are never the answer's.
    assert found.member.email == EMAIL
    assert found.member.group_id == "100001"
    assert KEY not in repr(found)
    assert KEY not in found.complaint + found.doubt


def look(body, complete=True, region=""):
    return find_new_member(answer(200, body, complete), EMAIL, "100001", region)


@pytest.mark.parametrize("wrap", [lambda body: body, lambda body: [body]])
def test_the_two_documented_shapes_have_no_complaint(wrap):
    found = look(wrap({"applicationKeyId": KEY_ID, "applicationKey": KEY, "groupMember": MEMBER}), region="us-west")
    same(found)
    assert (found.complaint, found.doubt, found.named, found.others) == ("", "", True, ())
    assert found.member.as_dict()["account_id"] == "5f2a1c0b3d4e"
    assert (found.member.region, found.member.s3_endpoint) == ("us-west", "s3.us-west-004.backblazeb2.com")


@given(st.sets(st.sampled_from(sorted(MEMBER))), st.sampled_from(["", "us-west"]), st.booleans())
def test_a_field_that_is_missing_is_a_doubt_only_if_it_says_whose_key_it_is(missing, region, complete):
    member = {name: value for name, value in MEMBER.items() if name not in missing}
    found = look({"applicationKeyId": KEY_ID, "applicationKey": KEY, "groupMember": member}, complete, region)
    same(found)
    assert ("names no account" in found.doubt, "names no address" in found.doubt) == (
        "accountId" in missing,
        "email" in missing,
    )
    # Without the account, the key and its fields are searched in the text as well.
    assert bool(found.doubt) is bool({"accountId", "email"} & missing)
    assert "Group" not in found.complaint
    assert ("names no region" in found.complaint) is bool(region and "region" in missing)
    assert ("cut short" in found.complaint) is not (complete or "accountId" in missing)


@pytest.mark.parametrize("before", [b"", b"x", b"{}\r\n"])
def test_an_answer_that_names_no_group_is_not_about_another_group(before):
    """Also if it is not JSON as a whole, and the objects in it are read one by one."""
    member = {name: value for name, value in MEMBER.items() if name != "groupId"}
    found = look(before + json.dumps({**OURS, "groupMember": member}).encode())
    same(found)
    assert (found.complaint, bool(found.doubt)) == ("", bool(before))


@st.composite
def odd_answers(draw):
    """The true fields under junk: other fields of any type, any nesting, any order."""
    member = {name: draw(st.one_of(st.just(value), JUNK)) for name, value in MEMBER.items() if draw(st.booleans())}
    body = {
        **draw(st.dictionaries(st.text(alphabet="mnopq", max_size=4), JUNK, max_size=3)),
        "groupMember": draw(st.one_of(st.just(member), JUNK)),
    }
    items = [*body.items(), ("applicationKeyId", KEY_ID), ("applicationKey", KEY)]
    value = dict(draw(st.permutations(items)))
    for wrap in draw(st.lists(st.sampled_from(["array", "array of two", "object"]), max_size=4)):
        if wrap == "object":
            value = {draw(st.text(alphabet="rstuv", max_size=4)): value, "other": draw(JUNK)}
        else:
            value = [value] if wrap == "array" else draw(st.permutations([value, draw(JUNK)]))
    return value


@given(odd_answers())
def test_a_key_in_its_field_is_found_under_any_wrapping(body):
    same(look(body))


FIELDS = {"applicationKeyId": KEY_ID, "applicationKey": KEY, **MEMBER}


@given(st.permutations(sorted(FIELDS)), st.lists(st.sampled_from("{}"), max_size=3), st.data())
def test_every_field_that_is_whole_in_a_part_of_an_answer_is_read(order, braces, data):
    """The answer may be cut at both ends, and its objects may be closed anywhere."""
    pieces = [f'"{name}": "{FIELDS[name]}"' for name in order]
    for brace in braces:
        pieces.insert(data.draw(st.integers(0, len(pieces)), label="brace at"), brace)
    text = ", ".join(pieces)
    at = text.index(f'"applicationKey": "{KEY}"')
    end = data.draw(st.integers(at + len(f'"applicationKey": "{KEY}"'), len(text)), label="end")
    text = text[data.draw(st.integers(0, at), label="start") : end]
    whole = {name: value if f'"{name}": "{value}"' in text else "" for name, value in FIELDS.items()}
    found = look(text.encode(), complete=False)
    # A key id that is not whole has no quotes, and counts if all its digits are there.
    same(found, KEY_ID if KEY_ID in text else "")
    member = found.member
    assert member.account_id == (whole["accountId"] or account_in(found.key_id))
    assert (member.region, member.s3_endpoint, member.group_name) == (
        whole["region"],
        whole["s3Endpoint"],
        whole["groupName"],
    )
    # The account inside a key id and the one beside the address have to be the same.
    assert found.named is bool(whole["email"] and (whole["accountId"] or not found.key_id))
    assert found.doubt and not found.others
    assert found.complaint == ""


PARTS = [{"applicationKeyId": KEY_ID}, {"applicationKey": KEY}]


@given(
    number=st.booleans(),
    named=st.booleans(),
    together=st.booleans(),
    order=st.permutations(range(3)),
    nested=st.booleans(),
)
def test_parts_of_an_answer_that_stand_apart_are_put_together(number, named, together, order, nested):
    """An account id of digits may be sent as a number, which is read in JSON only."""
    member = {**MEMBER, "accountId": 123456789012 if number else MEMBER["accountId"]}
    parts = [*([{**PARTS[0], **PARTS[1]}, {}] if together else PARTS), {"groupMember": member} if named else member]
    body = [parts[place] for place in order]
    # The account beside a named member may be the admin's.
    body = {**({"accountId": 1} if named else {}), "answer": body} if nested else body
    found = look(body)
    same(found)
    assert found.doubt and not found.others
    assert found.named is not number
    assert (found.member.region, found.member.s3_endpoint) == (MEMBER["region"], MEMBER["s3Endpoint"])
    # The account inside the key id wins.
    assert found.member.account_id == "5f2a1c0b3d4e"


@given(st.text(st.characters(exclude_categories=())).map("K004 {}".format), st.booleans())
def test_a_key_is_taken_as_it_was_sent(key, cut):
    """All but a character that no file can hold."""
    text = json.dumps({**OURS, "applicationKey": key})
    found = look(text[: -1 if cut else None].encode(), complete=not cut)
    assert found.key == key.encode("utf-8", "replace").decode()
    assert (found.key_id, bool(found.doubt), found.others) == (KEY_ID, cut, ())


def test_a_long_number_is_no_key_id():
    """It may stand before the key id in an answer that was cut."""
    body = {"m": -(10**24), "applicationKeyId": KEY_ID, "applicationKey": "K004abc/DEF+ghi_JKL-mno/PQRstuv"}
    same(look(json.dumps(body).encode()[:-1], complete=False))


@given(odd_answers(), st.data())
def test_a_key_is_found_in_an_answer_cut_anywhere_behind_it(body, data):
    text = json.dumps(body)
    if data.draw(st.booleans(), label="escaped slashes"):
        text = text.replace("/", "\\/")
    raw = text.encode()
    end = raw.index(b"PQRstuv") + len(b"PQRstuv")
    cut = data.draw(st.integers(end, len(raw)), label="cut at")
    found = look(raw[:cut], complete=cut == len(raw))
    id_end = raw.index(KEY_ID.encode()) + len(KEY_ID)
    same(found, KEY_ID if id_end <= cut else "")
    assert found.doubt or cut == len(raw)


@given(
    st.sampled_from(["key", "secret", "application_key", "ApplicationKey", "K", "appKey"]),
    st.sampled_from(
        [
            b'{"%s": "%s", "id": "%s"}',
            b"%s=%s&id=%s",
            b'<k name="%s">%s</k><i>%s</i>',
            b'{"%s": ["%s", ["%s"]]}',
            b"\xff\xfe %s %s %s \x00",
        ]
    ),
)
def test_a_key_of_the_documented_form_is_found_under_any_name(name, form):
    found = look(form % (name.encode(), KEY.encode(), KEY_ID.encode()))
    same(found)
    assert found.doubt
    assert not found.named
    # Nothing is known of its member, and nothing is wrong with it.
    assert found.complaint == ""
    assert found.member.account_id == "5f2a1c0b3d4e"


@pytest.mark.parametrize(
    "change, doubted",
    [
        ({"email": "mallory@x.example"}, True),
        ({"email": None}, True),
        ({"accountId": None}, True),
        ({"accountId": ["x"]}, True),
        ({"accountId": "ffffffffffff"}, True),
        ({"groupId": "7"}, False),
        ({"region": "eu-central"}, False),
    ],
)
def test_what_does_not_fit_the_request_is_no_reason_to_drop_the_key(change, doubted):
    """Another address or account makes it doubtful whose key it is; another Group or region is only worth a word."""
    found = look(
        {"applicationKeyId": KEY_ID, "applicationKey": KEY, "groupMember": {**MEMBER, **change}}, region="us-west"
    )
    same(found)
    assert (bool(found.doubt), bool(found.complaint)) == (doubted, not doubted)
    assert found.named is not doubted
    assert found.member.account_id == "5f2a1c0b3d4e"


OTHERS_KEY, OTHERS_ID = "K005another/DEF+ghi_JKL-mno/PQR", "005ffffffffffff0000000002"
OTHERS = {
    "applicationKeyId": OTHERS_ID,
    "applicationKey": OTHERS_KEY,
    "groupMember": {**MEMBER, "accountId": "ffffffffffff", "email": "bob@x.example"},
}
OURS = {"applicationKeyId": KEY_ID, "applicationKey": KEY, "groupMember": MEMBER}


@pytest.mark.parametrize("body", [[OTHERS, OURS], [OURS, OTHERS], {"a": OTHERS, "b": [OURS]}])
def test_of_several_keys_the_one_beside_the_wanted_address_is_taken(body):
    found = look(body)
    same(found)
    assert (found.doubt, found.named) == ("", True)
    # The other one was handed out too: it is to be kept, and to be tried before anybody uses it.
    ((other,),) = (found.others,)
    assert (other.key, other.doubt != "") == (OTHERS_KEY, True)


CUT = json.dumps([OTHERS, OURS])[:-40].encode()
ONE_AFTER_THE_OTHER = json.dumps(OTHERS).encode() + b"\r\n" + json.dumps(OURS).encode()


@pytest.mark.parametrize(
    "body, rest",
    [
        (CUT, b""),
        (CUT[1:], b""),
        (ONE_AFTER_THE_OTHER, b""),
        (b"x" + ONE_AFTER_THE_OTHER, b""),
        (json.dumps([{"applicationKey": OTHERS_KEY}, OURS]).encode(), b""),
        (json.dumps(OTHERS).encode(), b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + json.dumps(OURS).encode()),
        (json.dumps(OTHERS).encode(), json.dumps(OURS).encode()[:-60]),
    ],
)
def test_the_wanted_key_is_found_wherever_it_stands(body, rest):
    """Behind another one, in what is cut short or is several answers in one: none of the keys is thrown away."""
    found = find_new_member(dataclasses.replace(answer(200, body, complete=False), rest=rest), EMAIL, "100001", "")
    same(found)
    assert found.doubt
    assert [other.key for other in found.others] == [OTHERS_KEY]
    assert all(other.doubt for other in found.others)


@pytest.mark.parametrize("field", ["email", "region", "accountId", "groupName"])
def test_a_field_that_repeats_the_key_does_not_show_it(field):
    found = look({**OURS, "groupMember": {**MEMBER, field: f"x{KEY}"}}, region="us-west")
    assert found.key == KEY
    assert KEY not in repr(dataclasses.replace(found, key="")) + str(found.member.as_dict())


def test_two_keys_of_the_same_address_are_doubtful():
    found = look([OURS, {**OTHERS, "groupMember": MEMBER}])
    assert found.doubt
    assert {found.key, *(other.key for other in found.others)} == {KEY, OTHERS_KEY}


@pytest.mark.parametrize("part", ["applicationKeyId", "groupMember", "all"])
def test_a_key_or_an_id_of_another_account_is_doubtful(part):
    found = look(OTHERS if part == "all" else {**OURS, part: OTHERS[part]})
    assert found.doubt
    assert not found.named
    # Where the key id has an account inside, that is whose key it is, whatever else is said.
    assert found.member.account_id == ("5f2a1c0b3d4e" if part == "groupMember" else "ffffffffffff")


@pytest.mark.parametrize("key_id", ["005FFFFFFFFFFFF0000000002", "ffffffffffff", "FFFFFFFFFFFF"])
def test_an_account_in_a_key_id_of_any_known_form_is_compared(key_id):
    """That of a master key is the account id itself."""
    assert look({**OURS, "applicationKeyId": key_id}).doubt
    assert look({**OURS, "applicationKeyId": key_id}).member.account_id == "ffffffffffff"


@pytest.mark.parametrize("key_id", ["0045F2A1C0B3D4E0000000001", "5f2a1c0b3d4e"])
def test_the_members_own_account_in_a_key_id_of_any_known_form_is_no_reason_for_doubt(key_id):
    assert look({**OURS, "applicationKeyId": key_id}).doubt == ""


@pytest.mark.parametrize("key_id", ["key-1", "45f2a1c0b3d4e0000000001", KEY])
def test_a_key_id_of_another_form_is_to_be_tried(key_id):
    """What it says cannot be compared with anything."""
    found = look({**OURS, "applicationKeyId": key_id})
    assert found.doubt and found.named


@pytest.mark.parametrize(
    "status, code", [(401, "expired_auth_token"), (429, "too_many_requests"), (500, "internal_error")]
)
def test_a_key_is_taken_out_of_an_error_as_well(status, code):
    found = find_new_member(answer(status, {"status": status, "code": code, **OURS}), EMAIL, "100001", "")
    same(found)
    # An error that holds a key is to be tried like any other odd answer.
    assert str(status) in found.doubt
    assert found.named


def test_a_key_behind_the_end_of_the_body_is_found():
    rest = b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(OURS).encode()
    found = find_new_member(dataclasses.replace(answer(200, {}), rest=rest), EMAIL, "100001", "")
    same(found)
    assert found.doubt


@pytest.mark.parametrize("filler", [b"K", b"\\", b'\\"', b" ", b'"applicationKey":', b"0045f2a1c0b3d4e0000000001 "])
def test_a_text_that_is_never_closed_costs_one_pass_and_little_memory(filler):
    body = b'{"applicationKey":"' + filler * (MAX_BODY // len(filler))
    started = time.process_time()
    look(body, complete=False)
    assert time.process_time() - started < 20
    tracemalloc.start()
    look(body[: MAX_BODY // 8], complete=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MAX_BODY // 8


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        {},
        [],
        {"groupMember": MEMBER},
        {"applicationKey": None, "groupMember": MEMBER},
        {"applicationKeyId": KEY_ID},
    ]
    + [
        b'{"applicationKey":"K004abc',
        {"status": 401, "code": "invalid_email", "message": "cannot be used: alice@x.example"},
        b"[" * 100000,
    ],
)
def test_where_there_is_no_key_none_is_made_up(body):
    assert look(body) is None


@given(st.one_of(st.binary(), JUNK.map(lambda value: json.dumps(value).encode())))
def test_no_body_makes_the_search_fail(body):
    assert look(body) is None


@pytest.mark.parametrize("status", [400, 401, 429, 500, 502, 503])
def test_a_page_about_an_error_holds_no_key_whatever_it_looks_like(status):
    page = f"<html><body><h1>Bad Gateway</h1>request {KEY_ID} trace {KEY}</body></html>".encode()
    assert look(page) is not None
    assert find_new_member(answer(status, page), EMAIL, "100001", "") is None


@pytest.mark.parametrize(
    "body", [b"[" + b"1," * 500_000 + b"1]", b"[" + b"[]," * 350_000 + b"[]]", b'{"a":[' + b"{}," * 350_000 + b"{}]}"]
)
def test_a_large_flat_answer_takes_no_longer_than_a_deep_one(body):
    start = time.process_time()
    assert look(body) is None
    assert time.process_time() - start < 5
