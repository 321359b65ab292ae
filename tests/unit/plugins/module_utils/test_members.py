# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Groups and members as values, and which addresses are let near a path."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    REGIONS,
    as_text,
    check_email,
    check_region,
    folded,
    listed_group,
    listed_member,
    one,
    read_member,
    timestamp,
    unknown_region,
    unsafe_name,
)

ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "sent, read",
    [(0, 0), (7, 7), ("7", 7), (" 12 ", 12), (7.0, 7), ("1099511627776000", 1099511627776000)]
    + [(None, 0), ("", 0), ("seven", 0), (True, 0), ([1], 0), (1.5, 0), (float("nan"), 0), ("9" * 5000, 0)],
)
def test_counts(sent, read):
    member = read_member({"b2Stats": {"b2BytesStoredCount": sent, "b2FilesStoredCount": sent, "bucketCount": sent}})
    counts = (member.bytes_stored, member.files_stored, member.bucket_count)
    assert counts == (read, read, read)
    assert {type(count) for count in counts} == {int}


@pytest.mark.parametrize(
    "sent, read",
    [
        ("d20250103_m083000", "2025-01-03T08:30:00Z"),
        ("2025-01-03T08:30:00Z", "2025-01-03T08:30:00Z"),
        ("2025-01-03T08:30:00+02:00", "2025-01-03T06:30:00Z"),
        ("2025-01-03T08:30:00", "2025-01-03T08:30:00Z"),
        (1735893000000, "2025-01-03T08:30:00Z"),
        (None, None),
        ("", None),
        ("d20251303_m083000", None),
        ("yesterday", None),
        (True, None),
        (1, "1970-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+23:00", None),
        ("2025-01-03T08:30:00Z" + " " * 5000, None),
        (10**30, None),
        (float("inf"), None),
        ([], None),
    ],
)
def test_timestamps(sent, read):
    assert timestamp(sent) == read


def test_the_stats_may_be_missing_or_an_array():
    assert read_member({"accountId": "a", "email": "e"}).stats_timestamp is None
    assert read_member([{"b2Stats": [{"bucketCount": "3"}]}]).bucket_count == 3


@pytest.mark.parametrize(
    "sent, read",
    [({"a": 1}, {"a": 1}), ([{"a": 1}], {"a": 1}), ([], {}), ([{}, {}], {}), ([[{"a": 1}]], {}), ("x", {}), (None, {})],
)
def test_one_object_or_an_array_of_one(sent, read):
    assert one(sent) == read


@given(
    st.dictionaries(
        st.sampled_from(["accountId", "email", "groupId", "groupName", "region", "s3Endpoint", "b2Stats"]), ANY
    )
)
def test_no_type_of_any_field_makes_reading_a_member_fail(raw):
    shown = read_member(raw).as_dict()
    for name in ("account_id", "email", "group_id", "group_name", "region", "s3_endpoint"):
        text = shown.pop(name)
        assert text is None or (text and text.encode("utf-8"))
    stamp = shown.pop("stats_timestamp")
    assert stamp is None or stamp.endswith("Z")
    assert {type(count) for count in shown.values()} == {int}


def test_an_identifier_may_be_sent_as_a_number():
    assert as_text(100001) == "100001"
    assert [as_text(wrong) for wrong in (True, None, 1.5, [], {})] == [""] * 5


def test_a_listing_needs_ids_and_addresses():
    assert listed_member({"accountId": "a", "email": "E@x"}, "1", "hosting").as_dict()["group_name"] == "hosting"
    for raw in ({}, {"accountId": "a"}, {"email": "e@x"}, "text", {"accountId": [], "email": "e@x"}):
        with pytest.raises(AnswerError):
            listed_member(raw, "1", "hosting")


def test_a_group_needs_only_id_and_name():
    group = listed_group({"groupId": 100001, "groupName": ""})
    assert group.as_dict() == {
        "group_id": "100001",
        "group_name": "",
        "products": [],
        "member_count": 0,
        "created_timestamp": None,
        "stats_timestamp": None,
        "state": None,
    }
    for raw in ({"groupId": "1"}, {"groupName": "hosting"}, [], None):
        with pytest.raises(AnswerError):
            listed_group(raw)


@pytest.mark.parametrize(
    "email, accepted",
    [
        ("alice@x.example", "alice@x.example"),
        ("Alice@X.Example", "alice@x.example"),
        ("a+b.c_d-e@x.example", "a+b.c_d-e@x.example"),
        ("a#b&c!d~e=f%g^h$i|j@sub.x-y.example", "a#b&c!d~e=f%g^h$i|j@sub.x-y.example"),
        ("1@2.example", "1@2.example"),
        ("a" * 64 + "@" + "b" * 63 + ".example", "a" * 64 + "@" + "b" * 63 + ".example"),
    ],
)
def test_addresses_that_are_accepted(email, accepted):
    assert check_email(email) == accepted


@pytest.mark.parametrize(
    "email",
    [
        "",
        "   ",
        None,
        7,
        True,
        ["a@b"],
        {"email": "a@b"},
        "alice",
        "@x.example",
        "alice@",
        "a@b@c",
        "../a@b",
        "a/b@c",
        "a\\b@c",
        ".a@b",
        "..",
        "a b@c",
    ]
    + [
        "a\n@b",
        "a\x00@b",
        "a\x7f@b",
        "a\u2028@b",
        "a\u202e@b",
        "a\ud800@b",
        "{{ 7*7 }}@b",
        "{%raw%}@b",
        "{#c#}@b",
        "a@" + "b" * 260,
        "\u00fc" * 130 + "@b",
    ]
    # What a list that came as text, a mail program, a comment or a pattern of --limit leaves on an address.
    + [
        '["a@x.example"',
        "[a@x.example]",
        "a@x.example]",
        "(a@x.example)",
        "<a@x.example>",
        "{a@x.example}",
        "'a@x.example'",
        '"a@x.example"',
    ]
    + [
        "a@x.example,b@x.example",
        "a@x.example;",
        "mailto:a@x.example",
        "Ada <a@x.example>",
        "a@x.example b@x.example",
        "`a@x.example`",
        "o'neil@x.example",
    ]
    + ["#a@x.example", "!a@x.example", "&a@x.example", "-a@x.example", "~a@x.example", "*@x.example", "a?@x.example"]
    + [
        "a@localhost",
        "a@x..example",
        "a@.x.example",
        "a@x.example.",
        "a@-x.example",
        "a@x-.example",
        "a@x.-example",
        "a@x_y.example",
        "a@[127.0.0.1]",
    ]
    + [
        "a..b@x.example",
        "a.@x.example",
        "a" * 65 + "@x.example",
        "a@" + "b" * 64 + ".example",
        "a@" + ".".join(["b" * 60] * 5),
    ]
    # Letters that only look like ASCII, or that become ASCII when they are made lower-case.
    + [
        "j\u00fcrgen@x.example",
        "\u212aen@x.example",
        "ada@x.exampl\u0435",
        "\uff41da@x.example",
        "a@x\u3002example",
        "\u00a0a@x.example",
        "a@x.example\u00a0",
    ]
    # What a template or a copy leaves at the edge, and may have left more of.
    + [" a@x.example", "a@x.example ", "a@x.example\n", "\ta@x.example"],
)
def test_addresses_that_are_refused(email):
    with pytest.raises(OptionError):
        check_email(email)


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="aA.@/\\~ \u0130\u1e9e\u03a3{%#\n\t\x00", max_size=12),
        st.builds("{}@{}".format, st.text(max_size=8), st.text(max_size=8)),
        st.builds("{}@{}.example".format, st.text(string.printable, max_size=8), st.text(string.printable, max_size=8)),
    )
)
@example("\u0130@x")
@example("\u212a@x.example")
@example("A-b.C@X.example")
def test_an_accepted_address_is_one_plain_name_inside_its_directory(text):
    try:
        email = check_email(text)
    except OptionError as exc:
        assert str(exc).isprintable()
        return
    location = os.path.normpath(os.path.join("/srv/host_vars", email))
    assert (os.path.dirname(location), os.path.basename(location)) == ("/srv/host_vars", email)
    assert email.isprintable()
    assert not any(character.isspace() for character in email)
    assert len(os.fsencode(email)) <= 255
    # The store refuses what is not safe, and addresses are compared in this form.
    assert unsafe_name(email) == ""
    assert check_email(email) == email == email.lower()
    assert email.isascii()
    # Nothing was made of what was typed but its ASCII letters lower-case: it is nobody else's address.
    assert email == "".join(chr(ord(letter) + 32) if "A" <= letter <= "Z" else letter for letter in text)


@pytest.mark.parametrize(
    ("one", "other", "same"), [("Ada@X.Example", "ada@x.example", True), ("\u212aen@x.example", "ken@x.example", False)]
)
def test_addresses_are_compared_by_their_ascii_letters_only(one, other, same):
    """The Kelvin sign becomes a "k" in Python's lower case, and somebody else was ejected."""
    assert (folded(one) == folded(other)) is same


@given(st.text(), st.text())
def test_addresses_that_differ_by_more_than_ascii_case_are_never_the_same(one, other):
    if folded(one) == folded(other):
        assert len(one.strip(" \t\r\n")) == len(other.strip(" \t\r\n"))


@pytest.mark.parametrize("region", ["", *REGIONS, "ap-south", "eu-north", "us-central"])
def test_regions_that_are_sent(region):
    assert check_region(region) == region
    assert bool(unknown_region(region)) is (region not in ("", *REGIONS))


@pytest.mark.parametrize(
    "region, meant",
    [
        ("us-west-004", "us-west"),
        ("EU-Central", "eu-central"),
        ("us_east", "us-east"),
        ("caeast", "ca-east"),
        ("US West", "us-west"),
    ]
    + [
        ("s3.us-west-002", "us-west"),
        ("s3.us-west-004.backblazeb2.com", "us-west"),
        ("us-west-004b", "us-west"),
        ("us-west.example", "us-west"),
        ("eu-central-003", "eu-central"),
        ("us-east-1", "us-east"),
        (" us-west", "us-west"),
    ],
)
def test_another_name_of_a_region_is_refused_with_the_right_one(region, meant):
    with pytest.raises(OptionError, match=f"use {meant}"):
        check_region(region)
