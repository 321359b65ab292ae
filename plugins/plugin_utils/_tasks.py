# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one boundary between actions and everything below: task arguments in, result or clear failure out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Client
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, OptionError, StoppedError
from ansible_collections.community.backblaze.plugins.module_utils._members import fits, unknown_region, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._options import connect
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored, Wanted, audit, by_email
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE
from ansible_collections.community.backblaze.plugins.plugin_utils._action import _names
from ansible_collections.community.backblaze.plugins.plugin_utils._ansible import secrets_of
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.choose import (
    controller_path,
    made_at,
    remote_copy,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.durable import (
    OTHER_LOCATIONS,
    is_job,
    prove_durable,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Move, move_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._run import signals
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup, policy_of, read_members
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Plan, Report, Result, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.other_runs import look
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import (
    keys_open,
    mark_told,
    provision_groups,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import (
    summary,
    summary_of_groups,
    summary_of_move,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import open_stores
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

display = Display()

_AUDIT_WORKERS = 8
_FALLBACK = "community.backblaze"


def vault_secrets(action: ActionBase) -> t.Sequence[t.Any]:
    """Return the vault secrets of the run."""
    return secrets_of(action._loader)


def read_members_file(action: ActionBase, path: str) -> list[t.Any]:
    """Read a list of members from a file on the controller, which may be a vault file."""
    path = controller_path(action, path)

    def decrypt(content: bytes) -> bytes:
        if not VaultLib.is_encrypted(content):
            return content
        try:
            return bytes(VaultLib(vault_secrets(action)).decrypt(content))
        except AnsibleError:
            raise OptionError(f"members_file {path} does not decrypt with the vault secrets of this run.") from None

    return read_members(path, decrypt)


def show_progress(done: int, total: int, seconds: float) -> None:
    """Show how far a long run is: one line every few seconds."""
    if signals.stopped():
        return
    rate = done / seconds if seconds else 0.0
    left = f", about {(total - done) / rate:.0f} s left" if rate else ""
    # With the parent gone nobody listens any more; the members are made and sealed all the same.
    with contextlib.suppress(OSError):
        display.display(f"b2_group_members: {done} of {total} members, {rate:.1f} a second{left}")


@contextlib.contextmanager
def vault_location(
    action: ActionBase,
    options: dict[str, t.Any],
    task_vars: t.Mapping[str, t.Any],
    lost: t.Callable[[str], None] = lambda reason: None,
) -> t.Iterator[tuple[str, Location]]:
    """Give the path of the vault directory on the controller, which may be that of a copy, and its place.

    lost: is told why, if another run takes over what this one is at. Raises StoreError where the place would not outlive this job.
    """
    if options["vault_location"] == "controller":
        yield controller_path(action, options["vault_dir"]), CONTROLLER
        return
    with remote_copy(action, options, task_vars, lost) as location:
        _names[location.copy] = location.name
        yield location.copy, location


def vault_directory(action: ActionBase, path: str) -> str:
    """Return the path of a vault directory that has to be there already."""
    path = controller_path(action, path)
    if not os.path.isdir(path):
        raise OptionError(f"vault_dir {path} is not a directory.")
    return path


def _warn_of_new_directory(action: ActionBase, option: str, given: str) -> None:
    """Name a directory that is made where a relative path leads to: nobody may have meant it."""
    warning = made_at(action, option, given)
    if warning:
        display.warning(warning)


def default_fallback_dir() -> str:
    """Return where keys go that cannot be stored in their own place: the user's state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return os.path.join(state if os.path.isabs(state) else os.path.expanduser("~/.local/state"), _FALLBACK)


def seal_members(
    action: ActionBase,
    options: dict[str, t.Any],
    task_vars: t.Mapping[str, t.Any],
    wanted: t.Sequence[Wanted],
    concurrency: int,
) -> tuple[dict[str, t.Any], tuple[Result, ...]]:
    """Run the provisioner for the members of one Group; return the task's result and what it was made from."""
    group = WantedGroup(options["group_id"] or "", options["group_name"] or "", wanted)
    client, [done], notes, path = _provisioned(action, options, task_vars, [group], concurrency)
    if isinstance(done, B2Error):
        raise done
    plan, report = done
    report = dataclasses.replace(report, notes=(*notes, *report.notes))
    return {
        **summary(plan, report, options["on_key_missing"]),
        "vault_dir": path,
        "calls": client.calls,
    }, report.results


def seal_groups(
    action: ActionBase,
    options: dict[str, t.Any],
    task_vars: t.Mapping[str, t.Any],
    groups: t.Sequence[WantedGroup],
    concurrency: int,
) -> dict[str, t.Any]:
    """Run the provisioner for the members of several Groups; return the task's result."""
    client, done, notes, path = _provisioned(action, options, task_vars, groups, concurrency)
    result = {**summary_of_groups(groups, done, options["on_key_missing"]), "vault_dir": path, "calls": client.calls}
    return {**result, "warnings": [*notes, *result.get("warnings", ())]} if notes else result


def _provisioned(
    action: ActionBase,
    options: dict[str, t.Any],
    task_vars: t.Mapping[str, t.Any],
    groups: t.Sequence[WantedGroup],
    concurrency: int,
) -> tuple[Client, list[t.Union[tuple[Plan, Report], B2Error]], list[str], str]:
    """Run the provisioner; return for each Group what came of it, see provision_groups, what is to be said of the place, and its path."""
    stop = Stop()
    signals.heed(stop)
    with vault_location(action, options, task_vars, stop.ask) as (path, location):
        return *_provisioned_in(action, options, path, location, groups, concurrency, stop), location.notes, path


def _provisioned_in(
    action: ActionBase,
    options: dict[str, t.Any],
    path: str,
    location: Location,
    groups: t.Sequence[WantedGroup],
    concurrency: int,
    stop: Stop,
) -> tuple[Client, list[t.Union[tuple[Plan, Report], B2Error]]]:
    policy = policy_of(options, [one.email for group in groups for one in group.members])
    for warning in sorted({unknown_region(one.region) for group in groups for one in group.members} - {""}):
        display.warning(warning)
    sealer = Sealer(vault_secrets(action), options["vault_id"])
    if location is CONTROLLER:
        prove_durable(f"vault_dir {path}", options["vault_dir_is_durable"], OTHER_LOCATIONS)
        _warn_of_new_directory(action, "vault_dir", options["vault_dir"])
    # The copy of what is elsewhere is nobody else's to see.
    store_of = open_stores(
        options["vault_layout"], path, sealer, location, options["vault_mode"] if location is CONTROLLER else PRIVATE
    )
    fallback = _fallback(action, options, sealer)
    client = connect(options, connections=concurrency, wait=stop.wait)
    if stop.asked:
        raise StoppedError
    # What is wrong with the credentials is wrong for every Group, and said once.
    client.authorize()
    jobs: dict[str, tuple[Job, Store]] = {}
    failed: dict[int, B2Error] = {}
    for number, group in enumerate(groups):
        try:
            group_id = client.resolve_group(group.group_id, group.group_name)
            if group_id in jobs:
                raise OptionError(f"{group} is the same as one before it.", remedy="Put its members into one list.")
            job = Job(
                group_id,
                group.members,
                policy,
                concurrency,
                options["vault_lock_timeout"],
                bool(action._task.check_mode),
            )
            jobs[group_id] = job, store_of(group_id)
        except B2Error as exc:
            failed[number] = exc
    done = provision_groups(client, list(jobs.values()), fallback, stop, show_progress)
    # What is written to stderr only, the next run says once more.
    if not signals.stopped():
        mark_told(list(jobs.values()), done)
    rest = iter(done)
    return client, [failed[number] if number in failed else next(rest) for number in range(len(groups))]


def _fallback(action: ActionBase, options: dict[str, t.Any], sealer: Sealer) -> FallbackStore:
    """Return the fallback directory. In a job, one that may be lost with it is only warned of: better a key there than nowhere."""
    named = options["vault_fallback_dir"]
    path = controller_path(action, named or default_fallback_dir())
    doubt = ""
    if is_job() and not named:
        doubt = f"vault_fallback_dir is not given, and its default {path} may be lost with this job. Name a directory that outlives the job."
    elif is_job() and not options["vault_dir_is_durable"]:
        doubt = f"vault_fallback_dir {path} may be lost with this job. If this directory outlives the job, set vault_dir_is_durable: true."
    return FallbackStore(path, sealer, doubt)


def move_vault(action: ActionBase, options: dict[str, t.Any]) -> dict[str, t.Any]:
    """Move keys to another layout; return the task's result."""
    source = vault_directory(action, options["vault_dir"])
    target = controller_path(action, options["dest_dir"] or options["vault_dir"])
    prove_durable(f"{'dest_dir' if options['dest_dir'] else 'vault_dir'} {target}", options["vault_dir_is_durable"])
    if options["dest_dir"]:
        _warn_of_new_directory(action, "dest_dir", options["dest_dir"])
    move = Move(
        options["vault_layout"],
        source,
        target,
        options["group_id"] or None,
        options["vault_lock_timeout"],
        not action._task.check_mode,
        options["vault_mode"],
    )
    return summary_of_move(move_keys(move, Sealer(vault_secrets(action), options["vault_id"])))


def audit_members(action: ActionBase, options: dict[str, t.Any], task_vars: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """List members and compare their Groups with a vault directory; return the task's result."""
    stop = Stop()
    signals.heed(stop)
    with vault_location(action, options, task_vars) as (path, location):
        location.fetch()
        if stop.asked:
            raise StoppedError
        if location is CONTROLLER:
            vault_directory(action, options["vault_dir"])
        elif not location.exists:
            raise OptionError(f"vault_dir {path} is not there.")
        return _audited(action, options, path, location, stop)


def _audited(
    action: ActionBase, options: dict[str, t.Any], path: str, location: Location, stop: Stop
) -> dict[str, t.Any]:
    sealer = Sealer(vault_secrets(action))
    store_of = open_stores(options["vault_layout"], path, sealer, location)
    client = connect(options, connections=_AUDIT_WORKERS, wait=stop.wait)
    group_ids = client.resolve_groups(options["group_id"], options["group_name"])
    members = client.members_of(group_ids)
    there = by_email(members)
    ours: dict[str, Stored] = {}
    # One for all Groups, or one for each.
    stores = {group_id: store_of(group_id) for group_id in group_ids}
    keyed: dict[str, Store] = {}
    for store in dict.fromkeys(stores.values()):
        store.prove_not_in_other_layout([email for email in there if not unsafe_name(email)])
        for email, found in store.stored().items():
            # Who has left one Group for another may have a key in both: that of the present one counts.
            left = email in ours and (email not in there or there[email].group_id != found.group_id)
            if not left and (found.group_id in group_ids or email in there):
                ours[email], keyed[email] = found, store
    reasons: dict[str, str] = {}
    notes: list[str] = []
    for group_id, store in stores.items():
        missing = [email for email, member in there.items() if member.group_id == group_id and email not in ours]
        if missing:
            other = look(store, group_id)
            reasons.update(other.reasons)
            notes += other.notes
            sealed = store.stored([email for email in missing if not unsafe_name(email)])
            ours.update((email, sealed[email]) for email in missing if email in sealed)
            keyed.update((email, store) for email in missing if email in sealed)
    tried = {email: keyed[email].key(email) for email, found in ours.items() if options["verify_keys"] and found.key_id}
    fallback = FallbackStore(controller_path(action, options["vault_fallback_dir"] or default_fallback_dir()), sealer)
    result = {
        "changed": False,
        "members": [member.as_dict() for member in members if fits(member, options)],
        "vault_dir": path,
        "audit": audit(members, ours, keys_open(client, tried, _AUDIT_WORKERS, stop), reasons, fallback.paths()),
    }
    return {**result, "warnings": notes} if notes else result
