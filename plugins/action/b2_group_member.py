# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create or eject one member: with vault_dir on the controller, else by the plain module on the task's host."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import unknown_region
from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBER_RULES, MEMBER_SPEC
from ansible_collections.community.backblaze.plugins.plugin_utils._action import (
    options_of,
    refuse_unknown,
    run_action,
    run_without_vault_dir,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import wanted_members
from ansible_collections.community.backblaze.plugins.plugin_utils._tasks import seal_members

display = Display()

_MODULE = "community.backblaze.b2_group_member"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """Run the task. With vault_dir the task's host receives encrypted keys only, if the vault directory is there."""

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Run the task."""
        super().run(tmp, task_vars)
        # An empty vault_dir is a mistake that must not end in a key on the screen, so it does not count as missing.
        args = self._task.args
        if args.get("state") == "absent":
            return run_action(self, lambda: self._eject(task_vars))
        if args.get("vault_dir") is None:
            return run_without_vault_dir(self, MEMBER_SPEC, lambda: self._run_module(task_vars))
        return run_action(self, lambda: self._seal(task_vars))

    def _seal(self, task_vars: t.Any) -> dict[str, t.Any]:
        options = options_of(self, MEMBER_SPEC, **MEMBER_RULES)
        entry = {"email": options["email"], "region": options["region"]}
        for name in ("application_key_id", "application_key"):
            entry[name] = options[f"member_{name}"]
            # An empty text is a template that gave nothing: without a key the member could be created.
            if entry[name] is not None and not entry[name].strip():
                raise OptionError(f"member_{name} is empty.", remedy="Give the key to adopt, or leave the option out.")
        result, (one,) = seal_members(self, options, task_vars, wanted_members([entry]))
        # The task has one member, so the result of that member is at the top.
        del result["counts"], result["problems"]
        [shown] = result.pop("members")
        own = {name: shown[name] for name in ("outcome", "path", "code", "status", "ejected_account_id")}
        names = {name: shown[name] for name in ("group_id", "group_name")}
        return {**result, **own, "member": {**one.member.as_dict(), **names} if one.member else None}

    def _eject(self, task_vars: t.Any) -> dict[str, t.Any]:
        refuse_unknown(self, MEMBER_SPEC)
        return self._run_module(task_vars)

    def _run_module(self, task_vars: t.Any) -> dict[str, t.Any]:
        # Shown here, because warnings of a module are shown only after it has ended.
        warning = unknown_region(str(self._task.args.get("region") or ""))
        if warning and self._task.args.get("state") != "absent":
            display.warning(warning)
        result: dict[str, t.Any] = self._execute_module(module_name=_MODULE, task_vars=task_vars)
        if result.get("application_key") and self._task.register:
            if result.get("failed"):
                display.error(result["msg"], wrap_text=False)
            # The key is in the variable that the task registers, so it is not shown on the screen.
            result["_ansible_no_log"] = True
        return result
