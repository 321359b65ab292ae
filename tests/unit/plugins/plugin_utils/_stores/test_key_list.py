# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file of many keys, as text: keys come and go, and all else in it stays, byte for byte."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, unsafe_name
from ansible_collections.community.backblaze.plugins.plugin_utils._stores import key_list
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    key_line,
    key_variables,
    quoted,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_list import new_text, read_text

ENTRY = '"old@x.example": {b2_application_key: "K004old", b2_application_key_id: "004old", b2_email: "old@x.example"}'


class Loader(yaml.SafeLoader):
    """As Ansible reads it."""


Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
Loader.add_constructor("!vault", lambda loader, node: loader.construct_scalar(node))


def new(email="alice@x.example", key="K004abc/DEF+ghi", **fields):
    return NewMember(
        Member(**{"account_id": "5f2a1c0b3d4e", "email": email, "group_id": "100001", **fields}),
        "0045f2a1c0b3d4e0000000001",
        key,
    )


def read(text):
    return read_text(text.encode("utf-8"), "the file")


def put(keys, *news):
    return keys.plus({one.member.email: keys.line(one) for one in news}, {one.member.email: one for one in news})


def load(text):
    return yaml.load(text, Loader=Loader)


def entry(one):
    """What stands under the address of a member, which is not said again."""
    return {name: value for name, value in key_variables(one).items() if name != "b2_email"}


def with_address(entries):
    return {email: {"b2_email": email, **variables} for email, variables in entries.items()}


def check_put(text, *news, lines):
    """Put keys into a text; all that changes is that these lines are there."""
    keys = read(text)
    after = put(keys, *news).text
    expected = {**(load(text) or {})}
    expected["b2_member_keys"] = {
        **(expected.get("b2_member_keys") or {}),
        **{one.member.email: entry(one) for one in news},
    }
    assert load(after) == expected
    assert after == lines
    # What is written is what the next run reads.
    assert read(after).keys == with_address(expected["b2_member_keys"])
    return after


LINE = f'"alice@x.example": {key_line(new())}'


@pytest.mark.parametrize(
    "before, after",
    [
        ("", f"b2_member_keys:\n  {LINE}\n"),
        ("---\n", f"---\nb2_member_keys:\n  {LINE}\n"),
        ("# nothing yet", f"# nothing yet\nb2_member_keys:\n  {LINE}\n"),
        ("a: 1\n# the end\n", f"a: 1\n# the end\nb2_member_keys:\n  {LINE}\n"),
        ("a: 1", f"a: 1\nb2_member_keys:\n  {LINE}\n"),
        ("a: |+\n  text\n\n", f"a: |+\n  text\n\nb2_member_keys:\n  {LINE}\n"),
        ("  a: 1\n  b: [2,\n 3]\n", f"  a: 1\n  b: [2,\n 3]\n  b2_member_keys:\n    {LINE}\n"),
        ("---\na: 1\n...\n", f"---\na: 1\nb2_member_keys:\n  {LINE}\n...\n"),
        ("a: 1\r\n", f"a: 1\r\nb2_member_keys:\r\n  {LINE}\r\n"),
        ("\ufeffa: 1\n", f"\ufeffa: 1\nb2_member_keys:\n  {LINE}\n"),
        ("b2_member_keys:\n", f"b2_member_keys:\n  {LINE}\n"),
        ("b2_member_keys:", f"b2_member_keys:\n  {LINE}\n"),
        ("b2_member_keys: # none yet\n# more\nb: 2\n", f"b2_member_keys: # none yet\n  {LINE}\n# more\nb: 2\n"),
        ("b2_member_keys: null # none\nb: 2\n", f"b2_member_keys:  # none\n  {LINE}\nb: 2\n"),
        ("b2_member_keys: {}\nb: 2\n", f"b2_member_keys: \n  {LINE}\nb: 2\n"),
        ("b2_member_keys:\n  ~\nb: 2\n", f"b2_member_keys:\n  \n  {LINE}\nb: 2\n"),
        (f"b2_member_keys:\n  {ENTRY}\n", f"b2_member_keys:\n  {ENTRY}\n  {LINE}\n"),
        (f"b2_member_keys:\n  {ENTRY}", f"b2_member_keys:\n  {ENTRY}\n  {LINE}\n"),
        (
            f"b2_member_keys:  # ours\n\n     # first\n     {ENTRY} # behind\n\n     # last\n# next\nb: 2\n",
            f"b2_member_keys:  # ours\n\n     # first\n     {ENTRY} # behind\n     {LINE}\n\n     # last\n# next\nb: 2\n",
        ),
        (f"b2_member_keys: !!map\n    {ENTRY}\n...\n", f"b2_member_keys: !!map\n    {ENTRY}\n    {LINE}\n...\n"),
        (
            f"a: 1\r\nb2_member_keys:\r\n  {ENTRY}\r\nb: 2\r\n",
            f"a: 1\r\nb2_member_keys:\r\n  {ENTRY}\r\n  {LINE}\r\nb: 2\r\n",
        ),
        (f"a: &a 1\nb: *a\nb2_member_keys:\n  {ENTRY}\n", f"a: &a 1\nb: *a\nb2_member_keys:\n  {ENTRY}\n  {LINE}\n"),
        (
            "b2_member_keys:\n  old@x.example:\n    b2_email: old@x.example # x\n    b2_application_key: |-\n      K4\n\n# next\nb: 2\n",
            f"b2_member_keys:\n  old@x.example:\n    b2_email: old@x.example # x\n    b2_application_key: |-\n      K4\n\n  {LINE}\n# next\nb: 2\n",
        ),
        ("secret: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\nb: !unsafe '{{ x }}'\n", None),
    ],
)
def test_a_key_is_put_where_it_belongs_and_nothing_else_changes(before, after):
    check_put(before, new(), lines=after if after is not None else f"{before}b2_member_keys:\n  {LINE}\n")


def test_every_way_of_reading_yaml_finds_the_same_places(monkeypatch):
    """Where PyYAML has no C in it there is one way only."""
    text = f"\ufeff# \u00e4\U0001f600\na: \u00fc\nb2_member_keys:\n  # \u20ac\n  {ENTRY}  # \u00df\n\n# z\nb: 2"
    both = text.replace("# \u00df\n", f"# \u00df\n  {LINE}\n  {LINE.replace('alice@', 'bob@')}\n")
    for loader in (key_list._LOADER, yaml.SafeLoader):
        monkeypatch.setattr(key_list, "_LOADER", loader)
        check_put(text, new(), new("bob@x.example"), lines=both)


@pytest.mark.parametrize(
    "text, says",
    [
        (f"b2_member_keys: {{{ENTRY}}}\n", "in braces"),
        (f"{{b2_member_keys: {{{ENTRY}}}}}\n", "in braces"),
        (f"b2_member_keys: &keys\n  {ENTRY}\nb: *keys\n", "anchored"),
        ("a: &a {}\nb2_member_keys: *a\n", "no mapping"),
        (
            f"b2_member_keys:\n  {ENTRY}\n  b@x.example: &b {{b2_email: b@x.example, b2_application_key: k}}\n",
            "is no key",
        ),
        ("b2_member_keys:\n  b@x.example: {b2_email: b@x.example, b2_application_key: &k k}\n", "anchors"),
        ("a: 1\n---\nb: 2\n", "more than one YAML document"),
        ("a: &a {x: 1}\n<<: *a\n", "merges"),
        (f"b2_member_keys:\n  {ENTRY}\nb2_member_keys:\n  {ENTRY}\n", "twice"),
        (f"b2_member_keys:\n  {ENTRY}\n  {ENTRY}\n", "twice"),
        ("- 1\n", "no variables"),
        ("text\n", "no variables"),
        ("a: [\n", "not YAML"),
        ("a: \x00\n", "not YAML"),
        ("b2_member_keys: text\n", "no mapping"),
        ("b2_member_keys: [1]\n", "no mapping"),
        ("b2_member_keys:\n  alice@x.example: text\n", "is no key"),
        ("b2_member_keys:\n  alice@x.example:\n", "is no key"),
        ("b2_member_keys:\n  alice@x.example: {b2_account_id: k}\n", "is no key"),
        (
            "b2_member_keys:\n  alice@x.example: {b2_application_key: !vault k, b2_email: alice@x.example}\n",
            "is no key",
        ),
        ("b2_member_keys:\n  alice@x.example: {b2_application_key: k, b2_email: bob@x.example}\n", "another address"),
        ("b2_member_keys:\n  Alice@x.example: {b2_application_key: k, b2_email: Alice@x.example}\n", "another address"),
        ("b2_member_keys:\n  [a]: {b2_application_key: k, b2_email: a}\n", "line 2 of it is no address"),
        ("a: |\n  no line end", "would change something else"),
    ],
)
def test_what_cannot_take_up_keys_says_why_and_what_to_do(text, says):
    with pytest.raises(StoreError, match=says) as failed:
        read(text)
    assert "the file" in str(failed.value) and "b2_member_keys" in str(failed.value)


def test_what_is_no_text_is_refused():
    with pytest.raises(StoreError, match="UTF-8"):
        read_text(b"a: \xff\n", "the file")


def test_no_error_and_no_repr_shows_a_key():
    keys = put(read(f"b2_member_keys:\n  {ENTRY}\n"), new())
    assert "K004" not in repr(keys)
    with pytest.raises(StoreError) as failed:
        read("b2_member_keys:\n  alice@x.example: {b2_application_key: K004secret, b2_email: bob@x.example}\n")
    assert "K004" not in str(failed.value)


def test_keys_come_one_after_the_other_in_the_order_in_which_they_were_put_in():
    keys = new_text("the file")
    news = [new(f"m{number}@x.example", f"K004{number}") for number in range(40)]
    for one in news:
        keys = put(keys, one)
    assert list(read(keys.text).keys) == [one.member.email for one in news]
    assert put(new_text("the file"), *news).text == keys.text


@pytest.mark.parametrize("added", [True, False])
def test_an_entry_gives_way_to_more_of_it_in_its_place(added):
    start = put(new_text("the file"), new("a@x.example"), new("b@x.example"), new("c@x.example"))
    keys = start if added else read(start.text)
    after = put(keys, new("b@x.example", region="us-east"), new("d@x.example"))
    assert (
        after.text.splitlines()[:4] + after.text.splitlines()[5:-1]
        == start.text.splitlines()[:4] + start.text.splitlines()[5:]
    )
    assert read(after.text).keys == after.keys
    assert list(after.keys) == ["a@x.example", "b@x.example", "c@x.example", "d@x.example"]
    assert after.keys["b@x.example"]["b2_region"] == "us-east"


def test_an_entry_of_another_form_gives_way_as_well():
    text = f"# begin\nb2_member_keys:\n  # one\n  old@x.example:\n    b2_email: old@x.example\n    b2_application_key: part\n  # two\n  {LINE}\n"
    after = put(read(text), new("old@x.example"))
    line = f'"old@x.example": {key_line(new("old@x.example"))}'
    assert after.text == f"# begin\nb2_member_keys:\n  # one\n  {line}\n  # two\n  {LINE}\n"


def test_keys_that_leave_take_their_lines_and_nothing_else():
    text = f"# begin\na: 1\nb2_member_keys:  # ours\n  # one\n  {ENTRY}\n  # two\n  {LINE} # his\n\n# end\nb: 2\n"
    keys = read(text)
    assert keys.without(["old@x.example"]).text == text.replace(f"  {ENTRY}\n", "")
    assert (
        keys.without(["old@x.example", "alice@x.example"]).text
        == "# begin\na: 1\nb2_member_keys:  # ours\n  # one\n  # two\n   # his\n\n# end\nb: 2\n"
    )
    assert put(keys.without(["old@x.example", "alice@x.example"]), new()).keys == {
        "alice@x.example": key_variables(new())
    }
    assert not keys.without(list(keys.keys)).bare


def test_a_file_of_ours_is_bare_without_its_keys():
    keys = put(new_text("the file"), new(), new("bob@x.example"))
    assert not keys.bare and not keys.without([new().member.email]).bare
    assert keys.without(list(keys.keys)).bare
    assert read(keys.text).without(list(keys.keys)).bare


def test_remarks_inside_an_entry_are_seen():
    keys = read(
        f"b2_member_keys:\n  {ENTRY} # behind\n  b@x.example: # in\n    b2_email: b@x.example\n    b2_application_key: b\n"
    )
    assert [keys.remarks(email) for email in keys.keys] == [False, True]


@pytest.mark.parametrize(
    "value",
    [
        "{{ x }}",
        "{% x %}",
        "#jinja2: x",
        "a\nb",
        "\x85\u2028",
        '"\\',
        "\U0001f600",
        "~",
        "2001-01-01",
        "",
        " ",
        "a: b",
        "\x00",
    ],
)
def test_whatever_the_service_sends_stays_text_on_one_line(value):
    one = new(key=value or "k", region=value)
    text = put(new_text("the file"), one).text
    assert text.isascii() and len(text.splitlines()) == 4
    assert load(text)["b2_member_keys"] == {"alice@x.example": entry(one)}
    assert read(text).keys == {"alice@x.example": key_variables(one)}


def test_an_address_that_would_not_come_back_is_refused():
    with pytest.raises(StoreError):
        new_text("the file").line(new("Alice@x.example"))


# Whatever else somebody keeps in such a file.

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
COMMENTS = st.one_of(st.just(""), WORDS.map(lambda word: f" # {word}"))
ADDRESSES = st.from_regex(r"[a-z0-9+._\-{']{1,8}@[a-z\u00e4\u20ac]{1,8}\.example", fullmatch=True).filter(
    lambda text: not unsafe_name(text)
)
SECRETS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
MEMBERS = st.builds(lambda email, key, region: new(email, key, region=region), ADDRESSES, SECRETS, WORDS)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def files(draw):
    """A file with variables in all kinds of styles, comments and blank lines anywhere, and perhaps keys."""
    line_end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    blanks = st.lists(st.one_of(st.just(""), WORDS.map(lambda word: f"# {word}"), st.just("   ")), max_size=2)
    lines = draw(st.lists(WORDS.map(lambda word: f"# {word}"), max_size=2))
    if draw(st.booleans()):
        lines.append(f"---{draw(COMMENTS)}")
    members = draw(st.lists(MEMBERS, max_size=4, unique_by=lambda one: one.member.email))
    variables = draw(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), VALUES, max_size=3))
    names = draw(st.permutations([*variables, *draw(st.sampled_from([["b2_member_keys"], []]))]))
    for name in names:
        lines += draw(blanks)
        if name != "b2_member_keys":
            braces = isinstance(variables[name], (list, dict)) and draw(st.booleans())
            style = {"default_flow_style": braces, "allow_unicode": draw(st.booleans()), "width": 30}
            text = (
                f"{name}: {yaml.safe_dump(variables[name], **style)}"
                if braces
                else yaml.safe_dump({name: variables[name]}, **style)
            )
            lines += text.rstrip("\n").split("\n")
            continue
        if not members:
            lines.append(f"b2_member_keys:{draw(st.sampled_from(['', ' null', ' {}', ' ~']))}{draw(COMMENTS)}")
        else:
            indent = " " * draw(st.integers(1, 5))
            lines.append(f"b2_member_keys:{draw(COMMENTS)}")
            for one in members:
                lines += draw(blanks)
                style = {"default_flow_style": draw(st.booleans()), "width": draw(st.sampled_from([20, 999]))}
                # As we write it; and as somebody else may.
                ours = f"{quoted(one.member.email)}: {key_line(one)}{draw(COMMENTS)}"
                in_braces = f"{quoted(one.member.email)}: {yaml.safe_dump(key_variables(one), **style)}"
                in_lines = yaml.safe_dump({one.member.email: key_variables(one)}, **style)
                text = ours if draw(st.booleans()) else in_braces if style["default_flow_style"] else in_lines
                lines += [indent + line if line else line for line in text.rstrip("\n").split("\n")]
    lines += draw(blanks)
    if draw(st.booleans()):
        lines.append("...")
    text = line_end.join(lines)
    # A document end needs its line end, and so do the lines of others.
    return text if draw(st.booleans()) and lines and lines[-1] != "..." else text + line_end


@given(files(), st.lists(MEMBERS, min_size=1, max_size=4, unique_by=lambda one: one.member.email), st.data())
def test_whatever_else_is_in_a_file_survives_keys_that_come_and_go(text, news, data):
    try:
        before = load(text)
        keys = read(text)
    except (yaml.YAMLError, ValueError, StoreError):
        # That a file is refused before anything is made is fine; how seldom, another test says.
        return
    old = (before or {}).get("b2_member_keys") or {}
    news = [one for one in news if one.member.email not in old]
    after = put(keys, *news)
    assert load(after.text) == {
        **(before or {}),
        "b2_member_keys": {**old, **{one.member.email: entry(one) for one in news}},
    }
    assert after.text.startswith(keys.head) and after.text.endswith(keys.tail)
    again = read(after.text)
    assert again.keys == after.keys and again.text == after.text
    leaving = data.draw(st.lists(st.sampled_from(sorted(after.keys)), unique=True)) if after.keys else []
    rest = again.without(leaving)
    left = {email: variables for email, variables in after.keys.items() if email not in leaving}
    expected = {**(before or {}), "b2_member_keys": load(rest.text)["b2_member_keys"]}
    assert load(rest.text) == expected and with_address(expected["b2_member_keys"] or {}) == left
    # Those that came go without a trace.
    if news and old:
        assert again.without([one.member.email for one in news]).text == keys.text


@given(files())
def test_hardly_any_file_is_refused(text):
    try:
        load(text)
    except (yaml.YAMLError, ValueError):
        return
    try:
        read(text)
    except StoreError as exc:
        # A text in block form that is the last, and whose last line does not end, would get one more.
        assert "would change something else" in str(exc) and not text.endswith("\n"), (text, str(exc))
