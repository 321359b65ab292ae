# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files the inventory plugin takes for its own, and that texts stay texts. What it lists is tested by the
integration target of its name."""

from __future__ import annotations

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.doc_fragments.constructed import ModuleDocFragment as Constructed
from ansible.plugins.doc_fragments.inventory_cache import ModuleDocFragment as InventoryCache
from ansible.template import Templar

from ansible_collections.community.backblaze.plugins.doc_fragments.connection import ModuleDocFragment as Connection
from ansible_collections.community.backblaze.plugins.inventory.b2_group_members import (
    DOCUMENTATION,
    InventoryModule,
    cache_digest,
    marked,
    prove_known,
    prove_named,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError

try:
    from ansible.template import trust_as_template
except ImportError:
    # Up to ansible-core 2.18 every text is a template unless it is marked.
    trust_as_template = str


@pytest.mark.parametrize(
    "name, taken",
    [
        ("b2_group_members.yml", True),
        ("customers.b2_group_members.yaml", True),
        ("b2_group_members.json", False),
        ("hosts.yml", False),
        ("b2_group_members.yml.bak", False),
    ],
)
def test_files_are_known_by_their_name(tmp_path, name, taken):
    (tmp_path / name).write_text("plugin: community.backblaze.b2_group_members\n")
    assert InventoryModule().verify_file(str(tmp_path / name)) is taken


def test_a_file_has_to_be_there(tmp_path):
    assert not InventoryModule().verify_file(str(tmp_path / "b2_group_members.yml"))


OTHER_MARKS = "#jinja2: variable_start_string:'[[', variable_end_string:']]'\n[[ 7 * 7 ]]"


def test_a_text_that_is_no_template_is_shown_as_it_is():
    variables = {
        "b2_email": "alice@x.example",
        "b2_region": "us-west",
        "b2_group_name": "50 % off #1",
        "b2_bytes_stored": 7,
    }
    assert marked(variables) == variables
    # As ansible-inventory shows what is trusted, which up to ansible-core 2.18 is every text that is not marked.
    assert {name: type(value) for name, value in marked(variables).items()} == {
        name: type(trust_as_template(value)) if isinstance(value, str) else int for name, value in variables.items()
    }


@pytest.mark.parametrize(
    "text", ["{{ lookup('pipe', 'id') }}", "{{ 7 * 7 }}", "{% for x in [1] %}x{% endfor %}", "{# gone #}", OTHER_MARKS]
)
@pytest.mark.parametrize("sent", [str, trust_as_template], ids=["plain", "trusted"])
def test_no_text_is_taken_for_a_template(text, sent):
    for _time in range(2):
        variables = marked({"b2_region": sent(text), "b2_bytes_stored": 7, "b2_stats_timestamp": None})
        templar = Templar(loader=DataLoader(), variables=variables)
        assert templar.template(trust_as_template("<{{ b2_region }}>")) == f"<{text}>"
        assert (variables["b2_bytes_stored"], variables["b2_stats_timestamp"]) == (7, None)


ASKED = {"realm": "production", "key_id": "0a1b2c3d4e5f", "group_ids": ["1", "2"], "group_names": ["hosting", "resale"]}


@pytest.mark.parametrize(
    "other",
    [
        {"realm": "staging"},
        {"key_id": "0a1b2c3d4e60"},
        {"group_ids": ["1"]},
        {"group_names": ["hosting"]},
        {"group_ids": ["1", "2", "hosting"]},
    ],
    ids=str,
)
def test_the_cache_tells_members_of_other_options_apart(other):
    assert cache_digest(**{**ASKED, **other}) != cache_digest(**ASKED)


@pytest.mark.parametrize(
    "same",
    [{"realm": "https://api.backblazeb2.com/"}, {"group_ids": ["2", "1", "2"]}, {"group_names": ["resale", "hosting"]}],
    ids=str,
)
def test_the_cache_knows_the_same_question_in_other_words(same):
    assert cache_digest(**{**ASKED, **same}) == cache_digest(**ASKED)


OPTIONS = ("group_names", "group_ids", "strict")


@pytest.mark.parametrize(
    "given, says",
    [
        (["group_named"], "hosts.yml has an unknown option group_named. Did you mean group_names?"),
        (
            ["groups_id", "Strict", "group_names"],
            "hosts.yml has unknown options: Strict, groups_id. Did you mean strict, group_ids?",
        ),
        ([7], "hosts.yml has an unknown option 7. The options are group_ids, group_names, strict."),
    ],
)
def test_an_option_that_is_not_known_is_refused_by_name(given, says):
    with pytest.raises(OptionError) as caught:
        prove_known("hosts.yml", given, OPTIONS)
    assert str(caught.value) == says


def test_options_are_known():
    prove_known("hosts.yml", ["strict", "group_ids"], OPTIONS)


def test_no_option_has_another_name():
    """prove_known would refuse an alias."""
    pages = (DOCUMENTATION, Connection.DOCUMENTATION, Constructed.DOCUMENTATION, InventoryCache.DOCUMENTATION)
    options = {name: option for page in pages for name, option in yaml.safe_load(page)["options"].items()}
    assert {"hostnames", "realm", "compose", "cache"} <= set(options)
    assert not any("aliases" in option for option in options.values())


@pytest.mark.parametrize(
    "config",
    [
        {"group_names": None},
        {"group_ids": None, "group_names": ["hosting"]},
        {"group_name": None},
        {"group_id": ""},
    ],
    ids=str,
)
def test_a_list_of_no_group_is_not_taken_for_all_groups(config):
    with pytest.raises(OptionError, match="names no Group"):
        prove_named("hosts.yml", config)
    prove_named("hosts.yml", {"group_names": ["hosting"], "group_ids": []})


@pytest.mark.parametrize("other", ["group_id", "group_ids", "group_names"])
def test_one_group_is_named_in_one_way(other):
    with pytest.raises(OptionError, match=f"has .*{other}.* cannot be combined"):
        prove_named("hosts.yml", {"group_name": "hosting", other: ["1"]})
    prove_named("hosts.yml", {"group_name": "hosting"})
