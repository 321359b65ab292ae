# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is documented once is what the code takes."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml

from ansible_collections.community.backblaze.plugins.doc_fragments.connection import ModuleDocFragment
from ansible_collections.community.backblaze.plugins.module_utils._options import (
    CONNECTION_SPEC,
    CREDENTIALS,
    ENVIRONMENT,
    GROUP_SPEC,
    LOCATION_SPEC,
    VAULT_SPEC,
)


def documented(text):
    return {
        name: (option["type"], option.get("default"), option.get("choices"), option.get("required", False))
        for name, option in yaml.safe_load(text)["options"].items()
    }


def taken(spec):
    return {
        name: (option["type"], option.get("default"), option.get("choices"), option.get("required", False))
        for name, option in spec.items()
    }


@pytest.mark.parametrize(
    "text, spec",
    [
        (ModuleDocFragment.DOCUMENTATION, CONNECTION_SPEC),
        (ModuleDocFragment.GROUP, GROUP_SPEC),
        # vault_dir is documented by each module, which differ in it.
        (
            ModuleDocFragment.VAULT,
            {name: option for name, option in VAULT_SPEC.items() if name not in {"vault_dir", *LOCATION_SPEC}},
        ),
        (ModuleDocFragment.LOCATION, LOCATION_SPEC),
    ],
)
def test_options_are_documented_as_they_are(text, spec):
    assert documented(text) == taken(spec)


def test_the_libraries_are_documented_as_they_are_required():
    lines = (pathlib.Path(__file__).parents[4] / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["requirements"] == [
        line for line in lines if line and not line.startswith("#")
    ]


def test_every_variable_of_the_environment_is_documented():
    text = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    named = {name: re.findall(r"E\((\w+)\)", " ".join(option["description"])) for name, option in text.items()}
    assert {name: tuple(dict.fromkeys(found)) for name, found in named.items() if found} == ENVIRONMENT


def test_what_a_credentials_file_may_hold_is_documented():
    said = " ".join(yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]["credentials_file"]["description"])
    assert [name for name in CONNECTION_SPEC if f"C({name})" in said] == list(CREDENTIALS)
