# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The texts of keys: whatever the service has sent is read back as it was written, and nothing else is a key."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    StoredKey,
    comes_back,
    group_text,
    is_another,
    key_of,
    key_text,
    read_group,
    read_key,
)

ALICE = "alice@x.example"
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
safe = st.from_regex(r"[a-z0-9+{}%_\u00e4]{1,8}@[a-z]{1,4}[.]example", fullmatch=True).filter(
    lambda email: not any(begin in email for begin in ("{{", "{%"))
)
new_members = st.builds(
    NewMember,
    st.builds(Member, texts, safe, texts, region=texts, s3_endpoint=texts),
    texts,
    texts,
    doubt=st.sampled_from(["", "It may be another member's."]),
)


@settings(max_examples=40)
@given(new_members)
@example(NewMember(Member("~", ALICE, "null", region="{{ 7*7 }}", s3_endpoint="{% raw %}"), "007", "yes"))
def test_a_key_is_read_back_as_it_was_written(new):
    key = key_of(new)
    fields = (key.email, key.key_id, key.key, key.account_id, key.group_id, key.region, key.s3_endpoint)
    member = new.member
    assert fields == (
        *(member.email, new.key_id, new.key),
        *(member.account_id, member.group_id, member.region, member.s3_endpoint),
    )
    assert (key.unproven, key.more, key.secret) == (bool(new.doubt), False, (new.key_id, new.key))
    assert key.known("path") == (found := dataclasses.replace(key.known(), path="path")) and found.path == "path"
    assert (found.account_id, found.key_id, found.group_id) == (member.account_id, new.key_id, member.group_id)
    read = read_key(key_text(key), "path", key.email)
    assert dataclasses.astuple(read) == dataclasses.astuple(key)
    # Keys without a doubt are what a proof makes of them.
    assert dataclasses.astuple(read.of(member)) == dataclasses.astuple(dataclasses.replace(key, unproven=False))


@settings(max_examples=25)
@given(st.lists(new_members, max_size=4, unique_by=lambda new: new.member.email))
def test_the_keys_of_a_group_are_read_back_as_they_were_written(news):
    keys = {key.email: key for key in map(key_of, news)}
    text = group_text(keys.values())
    assert list(read_group(text, "path").items()) == list(keys.items())
    assert text.isascii() and len(text.splitlines()) == len(keys) + 3
    assert all(map(comes_back, keys.values()))


@pytest.mark.parametrize("email", ["", ".a@x.example", "a/b@x.example", "Alice@x.example", "a b@x.example", "{{a@x.y"])
def test_an_address_that_would_not_come_back_is_told_before_it_is_written(email):
    assert comes_back(StoredKey(ALICE, "id", "key"))
    assert not comes_back(StoredKey(email, "id", "key"))


@settings(max_examples=40)
@given(new_members.map(key_of), st.sampled_from(["# mine", "mine: 1", "mine: [1, 2]", "? [1]\n: 2"]), st.booleans())
def test_what_the_owner_adds_is_seen_and_does_not_change_the_key(key, line, first):
    head, body = key_text(key).split(b"b2_application_key_id", 1)
    own = f"{line}\n".encode()
    text = head + own + b"b2_application_key_id" + body if first else head + b"b2_application_key_id" + body + own
    read = read_key(text, "path", key.email)
    assert read == key and read.more and read.unproven == key.unproven


@pytest.mark.parametrize(
    "written, value",
    [
        ("~", ""),
        ("null", ""),
        ("", ""),
        ("'~'", "~"),
        ('"null"', "null"),
        ("0123", "0123"),
        ("1e5", "1e5"),
        ("!!str 12", "12"),
        ("!unsafe '{{ x }}'", "{{ x }}"),
        ("! 12", "12"),
        ("!!int 12", ""),
        ("[1]", ""),
    ],
)
def test_a_value_is_the_text_that_an_editor_sees(written, value):
    """YAML on its own reads some account ids as numbers."""
    text = key_text(StoredKey(ALICE, "id", "key", "ACCOUNT")).replace(b'"ACCOUNT"', written.encode())
    assert read_key(text, "path").account_id == value


def test_an_address_is_read_in_lower_case():
    text = key_text(StoredKey("Alice@X.example", "id", "key"))
    assert read_key(text, "path", ALICE).email == ALICE
    with pytest.raises(StoreError, match="path holds the key of another address"):
        read_key(text, "path", "bob@x.example")


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"a: b\n", b"- x\n", b"{", b"\xff", b"!!python/object/apply:os.getpid []\n", b"[" * 5000),
        *(b"b2_application_key: x\n", b"b2_email: alice@x.example\n"),
        *(b"b2_application_key: !vault x\nb2_email: alice@x.example\n", b"b2_email: 1\nb2_application_key: [x]\n"),
    ],
)
def test_a_text_without_a_key_is_told_as_such(text):
    for read, message in ((read_key, "does not hold a member's key"), (read_group, "holds something else")):
        with pytest.raises(StoreError, match=f"path .*{message}") as refused:
            read(text, "path")
        assert refused.value.remedy


def test_only_another_whole_key_stands_in_the_way():
    key = StoredKey(ALICE, "id", "key")
    assert not is_another(key, None)
    for there, another in (
        (dataclasses.replace(key, region="other"), False),
        (dataclasses.replace(key, key="other"), True),
        (dataclasses.replace(key, key="other", key_id=""), False),
    ):
        assert is_another(key, there) is another
