# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The credential type for AWX: AWX takes it, and whatever is in its fields arrives as it is."""

from __future__ import annotations

import copy
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._options import CREDENTIALS, ENVIRONMENT, credentials
from ansible_collections.community.backblaze.tests.utils.awx import (
    CREDENTIAL_TYPE,
    ENVIRONMENT_TYPE,
    credential_type,
    inject,
    problems,
)

# AWX stores its fields as JSON in a database, which has no room for these two.
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))
ODD = st.text(st.sampled_from("\"'\\{}%#$ \n:,aK")) | TEXT


@pytest.mark.parametrize("path", [CREDENTIAL_TYPE, ENVIRONMENT_TYPE])
def test_awx_takes_it(path):
    assert problems(credential_type(path)) == []


def test_each_has_every_option_that_may_stand_in_a_file_and_injects_all_of_them_one_way():
    kind, environment = credential_type(), credential_type(ENVIRONMENT_TYPE)
    assert [field["id"] for field in kind["inputs"]["fields"]] == list(CREDENTIALS)
    assert environment["inputs"] == kind["inputs"] and environment["name"] != kind["name"]
    assert {*kind["injectors"]} == {"env", "file"} and [*kind["injectors"]["env"]] == [*ENVIRONMENT["credentials_file"]]
    assert {*environment["injectors"]} == {"env"} and [*environment["injectors"]["env"]] == [
        ENVIRONMENT[name][0] for name in CREDENTIALS
    ]


def test_the_key_alone_is_secret():
    assert [field["id"] for field in credential_type()["inputs"]["fields"] if field.get("secret")] == [
        "application_key"
    ]


WRONG = {
    "kind": lambda kind: kind.update(kind="vault"),
    "unknown: state": lambda kind: kind.update(state="present"),
    "field: 1st": lambda kind: kind["inputs"]["fields"].append({"id": "1st", "label": "x"}),
    "field: tower": lambda kind: kind["inputs"]["fields"].append({"id": "tower", "label": "x"}),
    "field: realm": lambda kind: kind["inputs"]["fields"][2].update(type="boolean", secret=True),
    "field: application_key": lambda kind: kind["inputs"]["fields"][1].update(no_log=True),
    "an id twice": lambda kind: kind["inputs"]["fields"].append({"id": "realm", "label": "x"}),
    "required: key": lambda kind: kind["inputs"]["required"].append("key"),
    "env: ANSIBLE_X": lambda kind: kind["injectors"]["env"].update(ANSIBLE_X="x"),
    "env: PYTHONPATH": lambda kind: kind["injectors"]["env"].update(PYTHONPATH="x"),
    "env: B2_X": lambda kind: kind["injectors"]["env"].update(B2_X="{{ x }}"),
    "env: B2_Y": lambda kind: kind["injectors"]["env"].update(B2_Y="{% x"),
    "env: B2_CREDENTIALS_FILE": lambda kind: kind["injectors"].pop("file"),
    "file: credentials": lambda kind: kind["injectors"]["file"].update(credentials="x"),
    "several files": lambda kind: kind["injectors"]["file"].update({"template.other": "x"}),
}


@pytest.mark.parametrize("what", WRONG)
def test_awx_would_refuse(what):
    kind = copy.deepcopy(credential_type())
    WRONG[what](kind)
    assert any(problem.startswith(what) for problem in problems(kind))


def arrived(inputs, directory):
    """What a plugin takes from the environment alone, from the file alone, and from both."""
    file, alone = (inject(credential_type(path), inputs, directory) for path in (CREDENTIAL_TYPE, ENVIRONMENT_TYPE))
    assert [*file] == ["B2_CREDENTIALS_FILE"]
    return [tuple(credentials({}, way)[name] for name in CREDENTIALS) for way in (alone, file, {**alone, **file})]


@given(key_id=ODD, key=ODD, realm=ODD)
def test_what_is_in_its_fields_arrives_as_it_is(key_id, key, realm):
    with tempfile.TemporaryDirectory() as directory:
        inputs = {"application_key_id": key_id, "application_key": key, "realm": realm}
        assert arrived(inputs, directory) == [(key_id, key, realm or "production")] * 3


def test_fields_that_nobody_filled_in_are_not_given(tmp_path):
    assert (
        arrived({"application_key_id": "id", "application_key": "key"}, tmp_path) == [("id", "key", "production")] * 3
    )
