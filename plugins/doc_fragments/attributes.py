# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Document the attributes that several pages share."""

from __future__ import annotations


class ModuleDocFragment:
    """Document the attributes; a module adds ``.info`` or ``.change``, where it runs, and its action group."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what would be changed without changing it.
  diff_mode:
    description: Returns details on what has changed (or would be changed in C(check_mode)) in diff mode.
  idempotent:
    description: A second run with the same options changes nothing, unless something else has changed meanwhile.
  async:
    description: Can be used with the C(async) keyword.
  delegation:
    description: Can be used with C(delegate_to) and related keywords.
"""

    ACTIONGROUP_B2 = r"""
attributes:
  action_group:
    description:
      - Use C(group/community.backblaze.b2) in C(module_defaults) to set the connection options of all modules that
        speak to Backblaze.
    support: full
    membership:
      - community.backblaze.b2
"""

    INFO = r"""
attributes:
  check_mode:
    support: full
    details: The module changes nothing.
  diff_mode:
    support: N/A
    details: The module changes nothing.
  idempotent:
    support: full
    details: The module changes nothing.
"""

    CHANGE = r"""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
"""

    TARGET = r"""
attributes:
  async:
    support: full
  delegation:
    support: full
"""

    CONTROLLER = r"""
attributes:
  async:
    support: none
  delegation:
    support: N/A
    details:
      - The task runs on the controller, whatever host it addresses, because only the controller has the vault secrets.
"""

    LOCATION = r"""
attributes:
  async:
    support: none
  delegation:
    support: partial
    details:
      - The task runs on the controller, because only the controller has the vault secrets. The host of the task is
        used only with O(vault_location=target), which stores the keys on that host.
"""

    FILES = r"""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: partial
    details: With O(operation=read) the module changes nothing.
  async:
    support: none
  delegation:
    support: full
"""

    EITHER = r"""
attributes:
  async:
    support: none
  delegation:
    support: partial
    details:
      - With O(vault_dir) the task runs on the controller, whatever host it addresses, because only the controller has
        the vault secrets. With O(vault_location=target) the keys are on the host of the task.
"""
