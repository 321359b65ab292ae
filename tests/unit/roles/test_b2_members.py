# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role has a variable for each option of b2_group_members: documented, passed on, and with the same default."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from ansible_collections.community.backblaze.plugins.module_utils._options import CONNECTION_SPEC, MEMBERS_SPEC

ROLE = pathlib.Path(__file__).parents[3] / "roles" / "b2_members"
SPEC = {**CONNECTION_SPEC, **MEMBERS_SPEC}
#: Variables whose name is not that of their option.
RENAMED = {"members": "b2_members_list", "members_file": "b2_members_file"}


def load(path):
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def variable(option):
    return RENAMED.get(option, f"b2_members_{option}")


VARIABLES = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
DEFAULTS = load("defaults/main.yml")
[TASK] = [task for task in load("tasks/main.yml")[0]["block"] if "community.backblaze.b2_group_members" in task]
PASSED = TASK["community.backblaze.b2_group_members"]


def test_the_role_has_a_variable_for_each_option_and_no_others():
    assert PASSED.keys() == SPEC.keys()
    assert VARIABLES.keys() == {*map(variable, SPEC), "b2_members_vault_host"}


@pytest.mark.parametrize("option", SPEC)
def test_a_variable_is_passed_on_and_documented_as_its_option(option):
    name, rule = variable(option), SPEC[option]
    documented = VARIABLES[name]
    passed = "{{ %s }}" if name in DEFAULTS or rule.get("required") else "{{ %s | default(omit) }}"
    assert PASSED[option] == passed % name
    assert documented["type"] == rule.get("type", "str")
    assert documented.get("elements") == rule.get("elements")
    assert documented.get("choices") == rule.get("choices")
    assert documented.get("required", False) == rule.get("required", False)
    assert documented.get("options", {}).keys() == rule.get("options", {}).keys()
    assert documented.get("default") == DEFAULTS.get(name)
    if name in DEFAULTS:
        assert DEFAULTS[name] == rule["default"]
