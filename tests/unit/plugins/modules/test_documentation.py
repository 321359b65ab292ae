# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Test that the pages of modules document one account in one way. Integration targets compare pages with results."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.community.backblaze.plugins.doc_fragments.attributes import ModuleDocFragment as Attributes
from ansible_collections.community.backblaze.plugins.doc_fragments.connection import ModuleDocFragment as Connection
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._options import (
    CONNECTION_SPEC,
    MEMBER_INFO_SPEC,
    MEMBER_SPEC,
    MEMBERS_SPEC,
    VAULT_LAYOUT_SPEC,
)
from ansible_collections.community.backblaze.plugins.modules import (
    b2_group_member,
    b2_group_member_info,
    b2_group_members,
    b2_vault_layout,
)

ACCOUNT = yaml.safe_load(b2_group_member_info.RETURN)["members"]["contains"]


def test_every_field_of_an_account_is_documented():
    assert sorted(ACCOUNT) == sorted(Member("", "").as_dict())


@pytest.mark.parametrize(
    "shown",
    [
        yaml.safe_load(b2_group_member.RETURN)["member"]["contains"],
        yaml.safe_load(b2_group_members.RETURN)["members"]["contains"],
        yaml.safe_load(b2_group_members.RETURN)["settled"]["contains"],
    ],
)
def test_a_field_of_an_account_means_the_same_on_every_page(shown):
    shared = ACCOUNT.keys() & shown.keys()
    assert shared >= {"account_id", "email", "group_id", "group_name"}
    assert {name: shown[name] for name in shared} == {name: ACCOUNT[name] for name in shared}


def test_verify_keys_has_one_default():
    assert {spec["verify_keys"]["default"] for spec in (MEMBER_SPEC, MEMBERS_SPEC, MEMBER_INFO_SPEC)} == {False}


def documented(page):
    """Return the options of a page, with those of its fragments."""
    pages = [page]
    for name in page["extends_documentation_fragment"]:
        _namespace, _collection, fragment, *part = name.split(".")
        fragments = {"attributes": Attributes, "connection": Connection}[fragment]
        pages.append(yaml.safe_load(getattr(fragments, part[0].upper() if part else "DOCUMENTATION")))
    return {name: option for one in pages for name, option in one.get("options", {}).items()}


def facts(options, inside):
    """Return what a page and a specification both say of each option."""
    return {
        name: (
            *(option.get(fact) for fact in ("type", "default", "choices", "elements")),
            option.get("required", False),
            facts(option[inside], inside) if inside in option else None,
        )
        for name, option in options.items()
    }


@pytest.mark.parametrize(
    "module, spec", [(b2_group_members, {**CONNECTION_SPEC, **MEMBERS_SPEC}), (b2_vault_layout, VAULT_LAYOUT_SPEC)]
)
def test_a_page_without_a_module_documents_the_options_of_its_action(module, spec):
    """validate-modules compares page and specification of modules only that have code."""
    assert facts(documented(yaml.safe_load(module.DOCUMENTATION)), "suboptions") == facts(spec, "options")
