# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a module: read its options, connect, and turn the outcome into a result or a failure."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import UNCHANGED, B2Error
from ansible_collections.community.backblaze.plugins.module_utils._options import CONNECTION_SPEC, connect


def run_module(
    main: t.Callable[[AnsibleModule, Partner], dict[str, t.Any]],
    spec: dict[str, t.Any],
    check: t.Callable[[dict[str, t.Any]], None] = lambda params: None,
    **rules: t.Any,
) -> None:
    """Run a module: ``main`` gets the module and a client, and returns the result.

    check: checks the options before anything is sent. Raises OptionError.
    rules: more arguments of AnsibleModule, such as required_one_of.
    """
    module = AnsibleModule(argument_spec={**CONNECTION_SPEC, **spec}, supports_check_mode=True, **rules)
    try:
        check(module.params)
        # Ansible hides the key by itself only if the key is in module.params, not if it is from the environment or a
        # file.
        result = main(module, connect(module.params, hide=module.no_log_values.add))
    except B2Error as exc:
        module.fail_json(msg=exc.explain(UNCHANGED), **exc.facts)
    module.exit_json(**result)
