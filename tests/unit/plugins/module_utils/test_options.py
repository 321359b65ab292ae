# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options, where they come from, and which of them cannot work."""

from __future__ import annotations

import json
import sys

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.community.backblaze.plugins.module_utils import _options
from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._options import (
    CONNECTION_SPEC,
    ENVIRONMENT,
    connect,
    credentials,
    realm_url,
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in sum(ENVIRONMENT.values(), ()):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path):
    """Write a credentials file; return its path."""

    def write(name, **content):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        path.chmod(0o600)
        return str(path)

    return write


def options(**given):
    validated = ArgumentSpecValidator(CONNECTION_SPEC).validate(given)
    assert validated.error_messages == []
    return validated.validated_parameters


def found(environment=None, **given):
    """What of the three comes out, in the order key id, key, realm."""
    values = credentials(options(**given), environment or {})
    return values["application_key_id"], values["application_key"], values["realm"]


def test_without_any_source_only_the_realm_has_a_value():
    assert found() == ("", "", "production")


def test_the_environment_is_asked_in_the_order_that_is_documented():
    environment = {"B2_MASTER_KEY_ID": "master-id", "B2_MASTER_KEY": "master-key"}
    assert found(environment) == ("master-id", "master-key", "production")
    environment |= {"B2_APPLICATION_KEY_ID": "id", "B2_APPLICATION_KEY": "key", "B2_ENVIRONMENT": "staging"}
    assert found(environment) == ("id", "key", "staging")
    assert found(environment, application_key_id="mine", realm="production") == ("mine", "key", "production")


def test_each_value_is_from_the_first_source_that_has_it(write):
    near = write("near", application_key_id="near-id", application_key="near-key", realm="near")
    far = write("far", application_key_id="far-id", application_key="far-key", realm="far")
    around = {"B2_APPLICATION_KEY": "key", "B2_CREDENTIALS_FILE": far}
    assert found(around) == ("far-id", "key", "far")
    assert found(around, realm="mine") == ("far-id", "key", "mine")
    assert found(around, credentials_file=near) == ("near-id", "near-key", "near")
    assert found(around, credentials_file=near, application_key="mine") == ("near-id", "mine", "near")
    assert found(around, credentials_file=write("part", realm="part")) == ("far-id", "key", "part")


def test_what_is_empty_around_is_not_given_and_what_the_task_leaves_empty_is(write):
    empty = dict.fromkeys(sum(ENVIRONMENT.values(), ()), "")
    assert found(empty) == ("", "", "production")
    assert found(empty | {"B2_MASTER_KEY": "key"})[1] == "key"
    nothing = {"B2_CREDENTIALS_FILE": write("nothing", application_key_id="", application_key="", realm="")}
    assert found(nothing) == ("", "", "production")
    assert found({"B2_APPLICATION_KEY": "key"}, application_key="")[1] == ""


def test_a_file_that_is_named_has_to_be_right(tmp_path):
    given = {"application_key_id": "id", "application_key": "key", "realm": "staging"}
    missing = str(tmp_path / "missing")
    with pytest.raises(OptionError, match=missing):
        found({}, **given, credentials_file=missing)
    for name in ("application_key_id", "application_key"):
        with pytest.raises(OptionError, match=missing):
            found({"B2_CREDENTIALS_FILE": missing}, **{**given, name: None})
    # Of the environment it is only where something is still missing: another user may have been meant to read it.
    assert found({"B2_CREDENTIALS_FILE": missing}, **given) == ("id", "key", "staging")
    assert found({"B2_CREDENTIALS_FILE": missing, "B2_MASTER_KEY": "key"}, application_key_id="id") == (
        "id",
        "key",
        "production",
    )


def test_a_file_may_be_named_from_the_home_directory(write, monkeypatch, tmp_path):
    write("mine", application_key_id="id")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found({"B2_CREDENTIALS_FILE": "~/mine"})[0] == "id"
    assert found(credentials_file="~/mine")[0] == "id"


@pytest.mark.parametrize("by_file", [False, True])
def test_what_the_environment_says_is_what_reaches_the_service(monkeypatch, standin, write, by_file):
    settings = standin.settings()
    if by_file:
        path = write(
            "mine",
            application_key_id=settings["admin_key_id"],
            application_key=settings["admin_key"],
            realm=standin.url,
        )
        monkeypatch.setenv("B2_CREDENTIALS_FILE", path)
    else:
        monkeypatch.setenv("B2_MASTER_KEY_ID", settings["admin_key_id"])
        monkeypatch.setenv("B2_MASTER_KEY", settings["admin_key"])
        monkeypatch.setenv("B2_ENVIRONMENT", standin.url)
    hidden = []
    client = connect(options(api_version="v4"), hide=hidden.append)
    assert [group.group_name for group in client.groups()] == ["hosting"]
    assert standin.log()[-1]["version"] == "v4"
    assert hidden == [settings["admin_key"]]


def test_the_key_is_hidden():
    assert CONNECTION_SPEC["application_key"]["no_log"] is True


@pytest.mark.parametrize("missing", ["application_key_id", "application_key"])
def test_a_missing_credential_is_named_with_where_it_can_come_from(missing):
    given = {"application_key_id": "id", "application_key": "key"}
    for value in (None, ""):
        with pytest.raises(OptionError, match=missing) as failed:
            connect(options(**{**given, missing: value}))
        assert "B2_MASTER_KEY" in str(failed.value) and "B2_CREDENTIALS_FILE" in str(failed.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"api_timeout": 0},
        {"api_timeout": -1},
        {"api_timeout": 1e9},
        {"api_timeout": float("nan")},
        {"max_retries": -1},
        {"max_retries": 1000},
        {"realm": "http://example.com"},
        {"realm": "https://user@example.com"},
        {"realm": "nowhere"},
        {"realm": ""},
        {"application_key_id": "a:b"},
        {"application_key_id": "a b"},
        {"application_key": "K004\n"},
        {"application_key": "sch\u00fcssel"},
    ],
)
def test_values_that_cannot_work(bad):
    with pytest.raises(OptionError) as failed:
        connect(options(**{"application_key_id": "id", "application_key": "K004secret", **bad}))
    assert "K004" not in str(failed.value)


def test_realms():
    assert realm_url("production") == "https://api.backblazeb2.com"
    assert realm_url("staging").startswith("https://")
    assert realm_url("https://example.com/") == "https://example.com"


def test_a_group_id_is_taken_as_it_is_and_a_name_is_looked_up(standin, client):
    assert client.resolve_group("100001", None) == "100001"
    assert standin.state()["calls"] == {}
    assert client.resolve_group(None, "hosting") == standin.groups["hosting"]


def test_a_python_without_requests_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(_options, "REQUESTS_IMPORT_ERROR", "No module named 'requests'")
    with pytest.raises(OptionError) as failed:
        connect(options(application_key_id="id", application_key="K004secret"))
    for said in (sys.executable, "(No module named 'requests').", "pip install requests"):
        assert said in str(failed.value)
