# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look up the sealed keys of members by address."""

from __future__ import annotations

DOCUMENTATION = r"""
name: b2_group_member_key
short_description: Read sealed keys of members from a vault directory
version_added: 0.1.0
description:
  - Reads the keys of members by address from a vault directory on the controller, in which
    M(community.backblaze.b2_group_members) sealed them.
  - It also finds keys that were sealed earlier in the same run. Through C(host_vars) Ansible may not see these,
    because ansible-core remembers that a directory did not exist.
  - The run needs the vault secret of the vault files, and no credentials of Backblaze. Nothing is sent, written or
    locked.
  - Only the vault files that are needed are decrypted. In the layout V(host_vars) that is one for each address.
author:
  - community.backblaze contributors (@ansible-collections)
options:
  _terms:
    description:
      - Addresses of members, in upper or lower case.
    type: list
    elements: str
    required: true
  vault_dir:
    description:
      - Path of the vault directory. A relative path starts at the directory of the playbook, or at the working
        directory if the playbook is one of a collection.
    type: str
    required: true
  vault_layout:
    description:
      - How the keys are arranged in the vault directory, as in M(community.backblaze.b2_group_members).
    type: str
    default: host_vars
    choices:
      - host_vars
      - group_vars
  group_id:
    description:
      - Id of the Group whose vault file is read in the layout V(group_vars). If it is not given, the vault files of
        all Groups are read.
    type: str
notes:
  - The result is a secret. Set C(no_log) to V(true) on a task that uses it.
  - For many addresses in the layout V(group_vars) give them to one query, which decrypts the vault file once.
seealso:
  - module: community.backblaze.b2_group_members
"""

EXAMPLES = r"""
---
- name: Create a member and use its key in the same play
  hosts: localhost
  gather_facts: false
  vars:
    realm: "{{ lookup('ansible.builtin.env', 'B2_ENVIRONMENT') or 'https://api.backblazeb2.com' }}"
  tasks:
    - name: Create the member
      community.backblaze.b2_group_members:
        group_name: hosting
        members:
          - alice@customers.example.com
        vault_dir: host_vars

    - name: Authorize with its key
      ansible.builtin.uri:
        url: "{{ realm }}/b2api/v3/b2_authorize_account"
        url_username: "{{ key.application_key_id }}"
        url_password: "{{ key.application_key }}"
        force_basic_auth: true
      vars:
        key: "{{ lookup('community.backblaze.b2_group_member_key', address, vault_dir='host_vars') }}"
        address: alice@customers.example.com
      no_log: true
---
- name: Use keys that are in one vault file for each Group
  hosts: localhost
  gather_facts: false
  vars:
    addresses:
      - ada@customers.example.com
      - ben@customers.example.com
  tasks:
    - name: Create the members
      community.backblaze.b2_group_members:
        group_name: hosting
        members: "{{ addresses }}"
        vault_dir: group_vars
        vault_layout: group_vars

    - name: Look at all keys, for which the vault file is decrypted once
      ansible.builtin.assert:
        that: item.application_key | length > 0
        quiet: true
      loop: "{{ query('community.backblaze.b2_group_member_key', *addresses, **where) }}"
      vars:
        where: {vault_dir: group_vars, vault_layout: group_vars}
      no_log: true
"""

RETURN = r"""
_list:
  description:
    - One dictionary for each address, in the order of the addresses.
  type: list
  elements: dict
  contains:
    application_key_id:
      description: Id of the member's application key.
      type: str
    application_key:
      description: The member's application key. It is a secret.
      type: str
    account_id:
      description: Id of the member's account.
      type: str
    region:
      description: Region of the member's account.
      type: str
    s3_endpoint:
      description: S3 endpoint of the member's account.
      type: str
"""

import os
import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import folded, may_be_template, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._options import register_secret, unknown_option
from ansible_collections.community.backblaze.plugins.plugin_utils._ansible import path_of, secrets_of
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import HOST_VARS, stores_to_read
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

_OPTIONS = ("vault_dir", "vault_layout", "group_id")


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """Look up keys."""

    def run(self, terms: t.Sequence[t.Any], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, str]]:
        """Return the key of each address."""
        # ansible-core 2.18 gives this option of its own to a lookup in with_.
        kwargs.pop("wantlist", None)
        # Ansible itself ignores an option that the plugin does not have.
        unknown = [unknown_option(name, _OPTIONS) for name in kwargs if name not in _OPTIONS]
        if unknown:
            raise AnsibleLookupError(" ".join(unknown))
        self.set_options(var_options=variables, direct=kwargs)
        vault_dir, layout, group_id = (str(self.get_option(name) or "") for name in _OPTIONS)
        try:
            if not vault_dir:
                raise OptionError("vault_dir is empty.", remedy="Name the vault directory.")
            # Not of the type "path", with which a relative path would start at the working directory.
            path = path_of(self._loader, os.path.expandvars(vault_dir))
            emails = [_address(term) for term in self._flatten(terms)]
            secrets = secrets_of(self._loader)
            if not secrets:
                raise OptionError(
                    "This run has no vault secret, so no key can be read.",
                    remedy="Give the run the vault password of the vault files.",
                )
            # Nothing is encrypted, but a sealer needs a vault id of the run.
            stores = stores_to_read(layout, path, Sealer(secrets, str(secrets[0][0])), group_id)
            return [_shown(_stored_key(email, stores, path, layout)) for email in emails]
        except B2Error as exc:
            raise AnsibleLookupError(str(exc)) from None


def _address(term: t.Any) -> str:
    """Return an address in lower case; raise OptionError for an invalid one."""
    email = folded(term) if isinstance(term, str) else ""
    if "@" not in email or unsafe_name(email):
        raise OptionError(f"{term!r} is not an address.", remedy="Give the address of a member.")
    return email


def _stored_key(email: str, stores: t.Sequence[Store], path: str, layout: str) -> StoredKey:
    """Return the key that is stored for an address, or raise StoreError."""
    found: dict[str, StoredKey] = {}
    unread: list[StoreError] = []
    for store in stores:
        try:
            key = store.read(email)
        except StoreError as exc:
            unread.append(exc)
            continue
        if key:
            found[store.file(email)] = key
    if len(found) > 1:
        raise StoreError(
            f"The key of {email} is in several vault files: {', '.join(found)}.",
            remedy="Choose one of them by group_id.",
        )
    if found:
        [(file, key)] = list(found.items())
        if not all(key.secret):
            raise StoreError(
                f"{file} holds only a part of the key of {email}.",
                remedy="Run b2_group_members for that member, and do what its outcome says.",
            )
        return key
    if unread:
        raise unread[0]
    where = stores[0].file(email) if len(stores) == 1 else f"any b2_group_* directory of {path}"
    other = "group_vars" if layout == HOST_VARS else HOST_VARS
    raise StoreError(
        f"There is no key of {email} in {where}.",
        remedy=f"Check the address, vault_dir and the layout, which may be {other}, or create the member with "
        "b2_group_members.",
    )


def _shown(stored: StoredKey) -> dict[str, str]:
    """Return the result for one address."""
    register_secret(stored.key)
    key = {
        "application_key_id": stored.key_id,
        "application_key": stored.key,
        "account_id": stored.account_id,
        "region": stored.region,
        "s3_endpoint": stored.s3_endpoint,
    }
    return {name: wrap_var(value) if may_be_template(value) else value for name, value in key.items()}
