# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the tasks of the actions: create members of one Group or several, move keys to another layout, audit Groups."""

from __future__ import annotations

import dataclasses
import datetime
import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import fits, unknown_region
from ansible_collections.community.backblaze.plugins.module_utils._options import connect
from ansible_collections.community.backblaze.plugins.module_utils._plan import Wanted
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE
from ansible_collections.community.backblaze.plugins.plugin_utils._action import as_named, vault_location
from ansible_collections.community.backblaze.plugins.plugin_utils._ansible import secrets_of
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.choose import (
    TaskVars,
    controller_path,
    made_at,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.durable import (
    OTHER_LOCATIONS,
    prove_durable,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Move, move_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import tell
from ansible_collections.community.backblaze.plugins.plugin_utils._report.file import (
    Report,
    prove_report_file,
    write_report,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._report.members import audit_report, members_report
from ansible_collections.community.backblaze.plugins.plugin_utils._run import signals
from ansible_collections.community.backblaze.plugins.plugin_utils._run.audit import AUDIT_WORKERS, audit_groups
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup, policy_of
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Done, Job, Result
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import mark_told, provision_groups
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import (
    summary,
    summary_of_groups,
    summary_of_move,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import open_fallback
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import open_stores
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

display = Display()

Options = t.Mapping[str, t.Any]


def seal_members(
    action: ActionBase, options: Options, task_vars: TaskVars, wanted: t.Sequence[Wanted]
) -> tuple[dict[str, t.Any], tuple[Result, ...]]:
    """Create the members of one Group and seal their keys; return the task's result and the result of each member."""
    group = WantedGroup(options["group_id"] or "", options["group_name"] or "", wanted)
    [(group, done)], notes, facts = _provisioned(action, options, task_vars, [group])
    if isinstance(done, B2Error):
        raise done
    plan, report = done
    report = dataclasses.replace(report, notes=(*notes, *report.notes))
    result = {**summary(group, plan, report, options["on_key_missing"]), **facts}
    return _members_reported(action, options, result), report.results


def seal_groups(
    action: ActionBase, options: Options, task_vars: TaskVars, groups: t.Sequence[WantedGroup]
) -> dict[str, t.Any]:
    """Create the members of several Groups and seal their keys; return the task's result."""
    done, notes, facts = _provisioned(action, options, task_vars, groups)
    return _members_reported(action, options, {**summary_of_groups(done, options["on_key_missing"], notes), **facts})


def move_vault(action: ActionBase, options: Options) -> dict[str, t.Any]:
    """Move keys to another layout; return the task's result."""
    source = _existing(controller_path(action, options["vault_dir"]))
    target = _durable_directory(action, options, "dest_dir" if options["dest_dir"] else "vault_dir")
    move = Move(
        options["vault_layout"],
        source,
        target,
        options["group_id"] or None,
        options["vault_lock_timeout"],
        not action._task.check_mode,
        options["vault_mode"],
    )
    return summary_of_move(move_keys(move, Sealer(secrets_of(action._loader), options["vault_id"])))


def audit_members(action: ActionBase, options: Options, task_vars: TaskVars) -> dict[str, t.Any]:
    """List members and compare their Groups with a vault directory; return the task's result."""
    stop = signals.stop_on_signals()
    with vault_location(action, options, task_vars) as (path, location):
        _prove_report(action, options, path)
        location.fetch()
        stop.check()
        if location is CONTROLLER:
            _existing(path)
        elif not location.exists:
            raise OptionError(f"vault_dir {path} does not exist.")
        sealer = Sealer(secrets_of(action._loader))
        store_of = open_stores(options["vault_layout"], path, sealer, location)
        fallback = open_fallback(options, sealer, lambda given: controller_path(action, given))
        client = connect(options, connections=AUDIT_WORKERS, wait=stop.wait, tell=tell)
        group_ids = client.resolve_groups(options["group_id"], options["group_name"])
        members, found, notes = audit_groups(
            client, {one: store_of(one) for one in group_ids}, fallback, stop, verify_keys=options["verify_keys"]
        )
    shown = [member.as_dict() for member in members if fits(member, options)]
    result = {"changed": False, "members": shown, "vault_dir": path, "audit": found}
    result.update({"warnings": notes} if notes else {})
    return _reported(
        action, options, result, lambda written: audit_report(members, as_named(found), written, as_named(path))
    )


def _reported(
    action: ActionBase, options: Options, result: dict[str, t.Any], make: t.Callable[[str], Report]
) -> dict[str, t.Any]:
    """Write the report file, if the task wants one; return the result with its path, or with a warning.

    make: makes the report, from the time as the report shows it.
    """
    if not options.get("report_file"):
        return result
    path = controller_path(action, options["report_file"])
    written = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    try:
        write_report(path, make(written))
    except StoreError as exc:
        warning = exc.explain()
    except Exception as exc:  # noqa: BLE001 - a bug in a report must not lose the result of the task
        warning = f"The report was not written: unexpected {type(exc).__name__}. Please report the error."
    else:
        return {**result, "report_file": path}
    return {**result, "report_file": None, "warnings": [*result.get("warnings", ()), warning]}


def _members_reported(action: ActionBase, options: Options, result: dict[str, t.Any]) -> dict[str, t.Any]:
    """Write the report about wanted members, see _reported."""
    check_mode = bool(action._task.check_mode)
    return _reported(
        action, options, result, lambda written: members_report(as_named(result), written, check_mode=check_mode)
    )


def _prove_report(action: ActionBase, options: Options, vault_dir: str) -> None:
    """Check before the first change that the report file can be written, if the task wants one."""
    if options.get("report_file") is None:
        return
    if not options["report_file"]:
        raise OptionError("report_file is empty.", remedy="Name a file, or leave the option out.")
    lists = [one.get("members_file") for one in (options, *(options.get("groups") or ()))]
    prove_report_file(
        controller_path(action, options["report_file"]),
        vault_dir,
        [controller_path(action, one) for one in lists if one],
    )


def _provisioned(
    action: ActionBase, options: Options, task_vars: TaskVars, groups: t.Sequence[WantedGroup]
) -> tuple[list[tuple[WantedGroup, Done]], t.Sequence[str], dict[str, t.Any]]:
    """Run the provisioner in the location of the options.

    Return each Group, with its id and its name as far as they are known, and what provision_groups returns for it; the
    warnings of the location; and result keys of the whole task.
    """
    # One member needs one connection.
    concurrency = options.get("concurrency", 1)
    stop = signals.stop_on_signals()
    with vault_location(action, options, task_vars, stop.ask) as (path, location):
        _prove_report(action, options, path)
        policy = policy_of(options, [one.email for group in groups for one in group.members])
        for warning in sorted({unknown_region(one.region) for group in groups for one in group.members} - {""}):
            display.warning(warning)
        sealer = Sealer(secrets_of(action._loader), options["vault_id"])
        if location is CONTROLLER:
            _durable_directory(action, options, "vault_dir", OTHER_LOCATIONS)
        # The remote copy is private, whatever the mode of the vault directory.
        modes = options["vault_mode"] if location is CONTROLLER else PRIVATE
        store_of = open_stores(options["vault_layout"], path, sealer, location, modes)
        fallback = open_fallback(options, sealer, lambda given: controller_path(action, given))
        client = connect(options, connections=concurrency, wait=stop.wait, tell=tell)
        stop.check()
        # Invalid credentials fail the whole task, with one message for all Groups.
        client.authorize()
        job = Job("", (), policy, concurrency, options["vault_lock_timeout"], bool(action._task.check_mode))
        jobs, failed = _jobs(client, job, groups, store_of)
        done = provision_groups(client, list(jobs.values()), fallback, stop)
        # A stopped run reports to stderr only, so the next run has to report lost keys again.
        if not signals.stopped():
            mark_told(list(jobs.values()), done)
        outcomes = {**failed, **dict(zip(jobs, done, strict=True))}
        ids = {number: job.group_id for number, (job, _store) in jobs.items()}
        in_order = [
            (_identified(client, group, ids.get(number, "")), outcomes[number]) for number, group in enumerate(groups)
        ]
        return in_order, location.notes, {"vault_dir": path, "calls": client.calls}


def _identified(client: Partner, group: WantedGroup, group_id: str) -> WantedGroup:
    """Return a Group with both its id and its name, as far as they are known."""
    group_id = group_id or group.group_id
    return dataclasses.replace(group, group_id=group_id, group_name=group.group_name or client.group_name(group_id))


def _jobs(
    client: Partner, job: Job, groups: t.Sequence[WantedGroup], store_of: t.Callable[[str], Store]
) -> tuple[dict[int, tuple[Job, Store]], dict[int, B2Error]]:
    """Return the job and the store of each Group, or the error of a Group that has none; both by position.

    job: the part that all jobs have in common.
    """
    jobs: dict[int, tuple[Job, Store]] = {}
    failed: dict[int, B2Error] = {}
    for number, group in enumerate(groups):
        try:
            group_id = client.resolve_group(group.group_id, group.group_name)
            if any(group_id == one.group_id for one, _store in jobs.values()):
                raise OptionError(f"{group} is the same as one before it.", remedy="Put its members into one list.")
            jobs[number] = dataclasses.replace(job, group_id=group_id, wanted=group.members), store_of(group_id)
        except B2Error as exc:
            failed[number] = exc
    return jobs, failed


def _existing(vault_dir: str) -> str:
    """Return the path of a vault directory on the controller; raise OptionError if it does not exist."""
    if not os.path.isdir(vault_dir):
        raise OptionError(f"vault_dir {vault_dir} is not a directory.")
    return vault_dir


def _durable_directory(action: ActionBase, options: Options, option: str, otherwise: str = "") -> str:
    """Return the path of a writable vault directory on the controller; warn if a relative path makes a new directory.

    Raises StoreError if this is a job that the directory may not outlive. otherwise: see prove_durable.
    """
    path = controller_path(action, options[option])
    prove_durable(f"{option} {path}", options["vault_dir_is_durable"], otherwise)
    warning = made_at(action, option, options[option])
    if warning:
        display.warning(warning)
    return path
