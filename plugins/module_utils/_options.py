# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Define the options of all plugins, and make a client from the connection options."""

from __future__ import annotations

import collections
import difflib
import os
import time
import typing as t

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.community.backblaze.plugins.module_utils._api.calls import Caller
from ansible_collections.community.backblaze.plugins.module_utils._api.credentials import read_credentials
from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater, keep_silent
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import (
    REQUESTS_IMPORT_ERROR,
    Transport,
    check_url,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError

try:
    from ansible.module_utils.secrets import register_secret as _register
except ImportError:
    # Before ansible-core 2.22.
    def _register(value: str, /) -> str:
        """Return the secret: this ansible-core keeps no list of secrets."""
        return value


def register_secret(value: str) -> None:
    """Have ansible-core mask a secret in all output, if it can."""
    _register(value)


#: Realms by the names that Backblaze's own tools use.
REALMS = {
    "production": "https://api.backblazeb2.com",
    "staging": "https://api.backblaze.net",
}

#: Documented in doc_fragments/connection.py; a unit test holds the two together.
CONNECTION_SPEC: dict[str, t.Any] = {
    "application_key_id": {"type": "str"},
    "application_key": {"type": "str", "no_log": True},
    "realm": {"type": "str"},
    "credentials_file": {"type": "path"},
    "api_version": {"type": "str", "default": "v3", "choices": ["v3", "v4"]},
    "api_timeout": {"type": "float", "default": 60.0},
    "max_retries": {"type": "int", "default": 5},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
}

#: The environment variables of options, in the order in which they are tried. These options have no default in
#: CONNECTION_SPEC, so that it is known whether the task gives them.
ENVIRONMENT = {
    "application_key_id": ("B2_APPLICATION_KEY_ID", "B2_MASTER_KEY_ID"),
    "application_key": ("B2_APPLICATION_KEY", "B2_MASTER_KEY"),
    "realm": ("B2_ENVIRONMENT",),
    "credentials_file": ("B2_CREDENTIALS_FILE",),
}

#: The fields of a credentials file, with the value of a field that is not given anywhere.
CREDENTIALS = {"application_key_id": "", "application_key": "", "realm": "production"}

#: A Group is named by its id or by its name.
GROUP_SPEC: dict[str, t.Any] = {
    "group_id": {"type": "str"},
    "group_name": {"type": "str"},
}

#: The members, in the task or in a file.
_LIST_SPEC: dict[str, t.Any] = {
    "members": {"type": "list", "elements": "raw"},
    "members_file": {"type": "path"},
}

#: The location of the vault directory.
LOCATION_SPEC: dict[str, t.Any] = {
    "vault_location": {"type": "str", "default": "controller", "choices": ["controller", "target", "git"]},
    "vault_git_repo": {"type": "str"},
    "vault_git_branch": {"type": "str"},
    "vault_git_message": {"type": "str"},
    "vault_git_lock_branch": {"type": "str"},
}

#: How keys are stored, for the two modules that seal keys.
VAULT_SPEC: dict[str, t.Any] = {
    "vault_dir": {"type": "path"},
    **LOCATION_SPEC,
    "vault_id": {"type": "str"},
    "vault_layout": {"type": "str", "default": "host_vars", "choices": ["host_vars", "group_vars"]},
    "vault_fallback_dir": {"type": "path"},
    "vault_dir_is_durable": {"type": "bool", "default": False},
    # Unchanged, to refuse a number: YAML reads 0640 as 416.
    "vault_mode": {"type": "raw"},
    "vault_lock_timeout": {"type": "float", "default": 60.0},
    "on_key_missing": {"type": "str", "default": "fail", "choices": ["fail", "warn"]},
    "on_key_lost": {"type": "str", "default": "fail", "choices": ["fail", "recreate"]},
    "recreate_members": {"type": "list", "elements": "str"},
    "throwaway_email": {"type": "str", "default": "lost-{account_id}@{domain}"},
    "verify_keys": {"type": "bool", "default": False},
}

#: One member; shared by the module b2_group_member and the action of that name.
MEMBER_SPEC: dict[str, t.Any] = {
    **GROUP_SPEC,
    **VAULT_SPEC,
    "email": {"type": "str"},
    "account_id": {"type": "str"},
    "region": {"type": "str"},
    "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
    "confirm_eject": {"type": "bool", "default": False},
    "new_email": {"type": "str"},
    "member_application_key_id": {"type": "str"},
    "member_application_key": {"type": "str", "no_log": True},
}

#: Many members; shared by the action b2_group_members and its documentation.
MEMBERS_SPEC: dict[str, t.Any] = {
    **GROUP_SPEC,
    **VAULT_SPEC,
    **_LIST_SPEC,
    "vault_dir": {"type": "path", "required": True},
    "groups": {
        "type": "list",
        "elements": "dict",
        "options": {**GROUP_SPEC, **_LIST_SPEC},
        "mutually_exclusive": [("group_id", "group_name"), ("members", "members_file")],
        "required_one_of": [("group_id", "group_name"), ("members", "members_file")],
    },
    "concurrency": {"type": "int", "default": 8},
    "max_failures": {"type": "int"},
    "return_members": {"type": "str", "default": "success", "choices": ["success", "always", "never"]},
    "report_file": {"type": "path"},
}

#: Which members to list; shared by the module b2_group_member_info and the action of that name.
MEMBER_INFO_SPEC: dict[str, t.Any] = {
    **GROUP_SPEC,
    **{name: MEMBER_SPEC[name] for name in ("email", "region", "account_id")},
    "email_pattern": {"type": "str"},
    **LOCATION_SPEC,
    **{name: VAULT_SPEC[name] for name in ("vault_dir", "vault_layout", "vault_fallback_dir", "verify_keys")},
    "report_file": {"type": "path"},
}

#: Moving keys to another layout; shared by the action b2_vault_layout and its documentation.
VAULT_LAYOUT_SPEC: dict[str, t.Any] = {
    **{name: VAULT_SPEC[name] for name in ("vault_dir_is_durable", "vault_mode", "vault_id", "vault_lock_timeout")},
    "vault_dir": {"type": "path", "required": True},
    "vault_layout": {"type": "str", "required": True, "choices": VAULT_SPEC["vault_layout"]["choices"]},
    "dest_dir": {"type": "path"},
    "group_id": {"type": "str"},
}

_LOCATION_RULES: dict[str, t.Any] = {"required_if": [("vault_location", "git", ("vault_git_repo",))]}

#: At most one way to name the Group.
MEMBER_INFO_RULES: dict[str, t.Any] = {"mutually_exclusive": [("group_id", "group_name")], **_LOCATION_RULES}

#: Exactly one way to name the Group, and one to name the member; a key to adopt is whole.
MEMBER_RULES: dict[str, t.Any] = {
    "mutually_exclusive": [("group_id", "group_name"), ("email", "account_id")],
    "required_one_of": [("group_id", "group_name"), ("email", "account_id")],
    "required_together": [("member_application_key_id", "member_application_key")],
    **_LOCATION_RULES,
}

#: Exactly one way to name the Group and one to give its members, or a list of Groups that each have both.
MEMBERS_RULES: dict[str, t.Any] = {
    "mutually_exclusive": [("group_id", "group_name", "groups"), ("members", "members_file", "groups")],
    "required_one_of": [("group_id", "group_name", "groups"), ("members", "members_file", "groups")],
    **_LOCATION_RULES,
}

_LONGEST_TIMEOUT = 3600
_MOST_RETRIES = 20


def refuse_text_for_lists(options: t.Mapping[str, t.Any], spec: t.Mapping[str, t.Any], inside: str = "") -> None:
    """Refuse a text where a list is expected, before Ansible splits it at its commas.

    A list that came as text, such as by ``-e 'name=["a", "b"]'``, would become members with brackets and quotes in
    their addresses, and accounts cannot be deleted.
    """
    for name, rule in spec.items():
        value = options.get(name)
        if rule.get("type") != "list" or value is None:
            continue
        if isinstance(value, (str, bytes)):
            raise OptionError(
                f"{inside}{name} is text, but has to be a list.",
                remedy="Write it as a list in a playbook or a variables file, or on the command line as JSON: "
                """-e '{"b2_members_list": ["ada@customers.example.com", "ben@customers.example.com"]}'. """
                "A template has to be nothing but one expression, and a file of JSON needs the filter from_json.",
            )
        for entry in value if isinstance(value, (list, tuple)) else ():
            if isinstance(entry, dict):
                refuse_text_for_lists(entry, rule.get("options", {}), f"{inside}{name}: ")


def unknown_option(name: str, known: t.Iterable[str]) -> str:
    """Return a sentence about an option that does not exist, with the nearest option that does."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"There is no option {name}.{f' Did you mean {near[0]}?' if near else ''}"


def connect(
    options: t.Mapping[str, t.Any],
    *,
    connections: int = 1,
    wait: t.Optional[t.Callable[[float], t.Any]] = None,
    tell: t.Callable[[str], t.Any] = keep_silent,
    hide: t.Callable[[str], t.Any] = lambda _key: None,
) -> Partner:
    """Return a client for the connection options; nothing is sent yet.

    connections: how many threads will use the client at once.
    wait, tell: see Repeater.
    hide: called with the key, so that its caller can mask it.

    Raises OptionError for an invalid value.
    """
    if REQUESTS_IMPORT_ERROR:
        raise OptionError(
            f"{missing_required_lib('requests')} ({REQUESTS_IMPORT_ERROR}).", remedy="Install it: pip install requests."
        )
    found = credentials(options, os.environ)
    key_id, key = _checked(found, "application_key_id"), _checked(found, "application_key")
    register_secret(key)
    hide(key)
    timeout, retries = options["api_timeout"], options["max_retries"]
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        raise OptionError(
            f"api_timeout is {timeout:g}, but has to be more than 0 and at most {_LONGEST_TIMEOUT} seconds."
        )
    if not 0 <= retries <= _MOST_RETRIES:
        raise OptionError(f"max_retries is {retries}, but has to be 0 to {_MOST_RETRIES}.")
    verify = bool(options["validate_certs"]) and (options["ca_path"] or True)
    caller = Caller(
        Transport(timeout=float(timeout), verify=verify, connections=connections),
        Repeater(int(retries), wait or time.sleep, tell),
        realm=realm_url(found["realm"]),
        key_id=key_id,
        key=key,
    )
    return Partner(caller, str(options["api_version"]))


def credentials(options: t.Mapping[str, t.Any], environment: t.Mapping[str, str]) -> dict[str, str]:
    """Return the credentials, each from the first source that has it.

    The sources are the options, the file that they name, the environment, and the file that it names. An empty value in
    the environment or in a file counts as missing: AWX injects an empty text for a field that nobody filled in.

    Raises OptionError for an invalid file.
    """
    around = {
        name: next(filter(None, map(environment.get, variables)), None) for name, variables in ENVIRONMENT.items()
    }
    sources: list[dict[str, str]] = []
    for source in (options, around):
        given = {name: str(source[name]) for name in ENVIRONMENT if source.get(name) is not None}
        sources.append(given)
        # The environment may name a file for another program, although the id and the key are known already.
        needed = source is options or not {"application_key_id", "application_key"} <= set().union(*sources)
        if "credentials_file" in given and needed:
            sources.append(read_credentials(os.path.expanduser(given["credentials_file"]), CREDENTIALS))
    return dict(collections.ChainMap(*sources, CREDENTIALS))


def realm_url(realm: str) -> str:
    """Return the URL of a realm given by name or by URL."""
    if "://" in realm:
        return check_url(realm, "The realm")
    if realm not in REALMS:
        raise OptionError(f"There is no realm {realm!r}.", remedy=f"Use {', '.join(REALMS)}, or a URL.")
    return REALMS[realm]


def _checked(found: t.Mapping[str, str], name: str) -> str:
    text = found[name]
    if not text:
        variables = " or ".join((*ENVIRONMENT[name], *ENVIRONMENT["credentials_file"]))
        raise OptionError(
            f"{name} is missing.",
            remedy=f"Set it on the task, in the environment or in a credentials file ({variables}).",
        )
    # A colon ends the user name of HTTP Basic. Blanks and control characters come from careless copies.
    if not text.isascii() or not text.isprintable() or " " in text or (name == "application_key_id" and ":" in text):
        raise OptionError(
            f"{name} contains characters that no Backblaze key has.",
            remedy="Remove blanks and line ends that were copied along.",
        )
    return text
