# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A credentials file gives texts, or an error that names the file and shows nothing of it."""

from __future__ import annotations

import json
import os
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api.credentials import MAX_BYTES, read_credentials
from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError

NAMES = ("application_key_id", "application_key", "realm")
SECRET = "K004secretSecretSECRET"
GOOD = json.dumps({"application_key": SECRET})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "credentials.json"
    path.touch(0o600)
    return path


def shows_only(error, path):
    """Whether an error names the file, and has nothing of what is in it, nor does its traceback."""
    return str(path) in error.happened and SECRET not in "".join(traceback.format_exception(error))


def refused(path, said):
    with pytest.raises(OptionError, match=re.escape(said)) as failed:
        read_credentials(str(path), NAMES)
    assert shows_only(failed.value, path)
    return str(failed.value)


def test_texts_come_as_they_are_and_empty_ones_not_at_all(path):
    text = "\"'\\{{ 7 * 7 }}{% x %}${HOME}\n\u00fc"
    path.write_text(json.dumps({"application_key": text, "application_key_id": "id", "realm": ""}))
    assert read_credentials(str(path), NAMES) == {"application_key": text, "application_key_id": "id"}
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_credentials(str(path), NAMES) == {}


WRONG = {
    "nothing": ("", "is not JSON (line 1, column 1)"),
    "no JSON": ('{\n"application_key": "@"quote"}', "is not JSON (line 2, column 44)"),
    "no UTF-8": (b'{"application_key": "@\xff"}', "is not UTF-8"),
    "another encoding": (GOOD.encode("utf-16"), "is not UTF-8"),
    "a list": ('["@"]', "is not a JSON object"),
    "a text": ('"@"', "is not a JSON object"),
    "a name that is none": ('{"key": "@"}', "has an unknown name"),
    "a key for a name": ('{"@": ""}', "has an unknown name"),
    "a name twice": ('{"realm": "", "realm": "@"}', "has a name more than once"),
    "a number": ('{"realm": 4004, "application_key": "@"}', "has a value that is not a text (realm)"),
    "nothing for a text": (
        '{"realm": null, "application_key": ["@"]}',
        "has a value that is not a text (realm, application_key)",
    ),
    "an endless number": ('{"application_key": "@", "realm": ' + "1" * 5000 + "}", "too long or too deep"),
    "lists in lists": ('{"application_key": "@", "realm": ' + "[" * 60000, "too long or too deep"),
    "too much": (GOOD + " " * MAX_BYTES, "is larger than 64 KiB"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_a_credentials_file_is_refused(path, what):
    content, said = WRONG[what]
    path.write_bytes((content if isinstance(content, bytes) else content.encode()).replace(b"@", SECRET.encode()))
    refused(path, said)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o640, 0o620, 0o610, 0o666])
def test_a_file_that_is_open_to_others_is_refused_with_what_to_do(path, mode):
    path.write_text(GOOD)
    path.chmod(mode)
    assert refused(path, f"(mode {mode:04o})").endswith(f"chmod 600 {path}")
    for closed in (0o600, 0o400, 0o700):
        path.chmod(closed)
        assert read_credentials(str(path), NAMES) == {"application_key": SECRET}


def test_a_file_of_somebody_else_is_refused(path, monkeypatch):
    path.write_text(GOOD)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    refused(path, f"belongs to user {os.getuid()}, but is read by user {os.getuid() + 1}")


def test_only_a_plain_file_is_read(path, tmp_path):
    path.write_text(GOOD)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    refused(link, "is a symlink")
    refused(pipe, "is not a regular file")
    refused(tmp_path, "cannot be read (Is a directory)")
    refused(tmp_path / "missing", "cannot be read (No such file or directory)")
    refused("/dev/zero", "is not a regular file")
    refused(f"{path}\0", "has an invalid name")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.sampled_from(NAMES) | st.text(), one),
)


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(NAMES), st.text()).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_file_holds_there_are_texts_or_one_error(tmp_path, content):
    path = tmp_path / "anything"
    # Not as a value that the error might quote, but as something that stands in it for certain.
    planted = content.replace(b'"', b'"' + SECRET.encode(), 1)
    path.touch(0o600)
    for written in (content, planted):
        path.write_bytes(written)
        try:
            found = read_credentials(str(path), NAMES)
        except OptionError as error:
            assert shows_only(error, path)
        else:
            assert found == {name: value for name, value in json.loads(written).items() if value}
            assert set(found) <= set(NAMES) and all(isinstance(value, str) for value in found.values())
