# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one boundary of actions: validate arguments, open the location, turn errors into failed results."""

from __future__ import annotations

import contextlib
import re
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.release import __version__
from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.module_utils._errors import UNCHANGED, B2Error, OptionError
from ansible_collections.community.backblaze.plugins.module_utils._options import (
    CONNECTION_SPEC,
    LOCATION_SPEC,
    VAULT_SPEC,
    refuse_text_for_lists,
    unknown_option,
)
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import modes_of
from ansible_collections.community.backblaze.plugins.plugin_utils._ansible import plain
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.choose import controller_path, remote_copy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import be_quiet, named, names, tell
from ansible_collections.community.backblaze.plugins.plugin_utils._run import signals
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import summary_of_stop

display = Display()

# ansible-core 2.18 shows the message of a failed task inside JSON only, where line breaks are not readable.
_ONLY_JSON = __version__.startswith("2.18.")
# The most characters of a good result that Ansible prints at -v, and the verbosity that prints every result.
_MOST_SHOWN = 6000
_ALL_VERBOSITY = 3


def run_action(action: ActionBase, work: t.Callable[[], dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return the result of a task, or its failed result if ``work`` raises an error."""
    signals.begin()
    no_log = bool(action._task.no_log)
    if no_log:
        be_quiet()
    try:
        result = work()
    except B2Error as exc:
        result = {"failed": True, "changed": False, "msg": exc.explain(UNCHANGED), **exc.facts}
    result = t.cast("dict[str, t.Any]", as_named(result))
    if not no_log:
        _show(result)
    told = _counts_only(result) if no_log else result
    signals.deliver(lambda reason: summary_of_stop(told, reason, check_mode=bool(action._task.check_mode)))
    return result


def _counts_only(result: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what a task with no_log may show of its result: the headline with the count of each outcome."""
    if "counts" not in result:
        return {}
    return {"counts": result["counts"], "msg": str(result["msg"]).partition("\n")[0]}


def _show(result: dict[str, t.Any]) -> None:
    """Show the message of a result on stderr, if Ansible shows it only inside JSON, or not at all.

    A good result that is long and has a message is printed at -vvv only, and not at -v.
    """
    message = str(result.get("msg", ""))
    if result.get("failed"):
        if _ONLY_JSON and "\n" in message:
            tell(message)
    elif message and 0 < display.verbosity < _ALL_VERBOSITY and len(str(result)) > _MOST_SHOWN:
        result["_ansible_verbose_override"] = True
        tell(message)


def run_without_vault_dir(
    action: ActionBase, spec: t.Mapping[str, t.Any], run_module: t.Callable[[], dict[str, t.Any]]
) -> dict[str, t.Any]:
    """Run the plain module. Refuse options about stored keys: without vault_dir, a key could end on the screen."""
    # The result is always delivered: the only copy of a key may be in it.
    signals.begin()
    try:
        refuse_unknown(action, spec)
        given = [name for name in (*VAULT_SPEC, "report_file") if action._task.args.get(name) is not None]
        if given:
            raise OptionError(
                f"{given[0]} is given, but vault_dir is not.",
                remedy=f"Give vault_dir, the directory for the keys, or leave {given[0]} out.",
            )
    except OptionError as exc:
        return {"failed": True, "changed": False, "msg": exc.explain(UNCHANGED)}
    return run_module()


def refuse_unknown(action: ActionBase, spec: t.Mapping[str, t.Any]) -> None:
    """Raise OptionError for options that a task of a plain module does not have, with the nearest valid ones.

    The module itself reports only one error: after a misspelt option, that the right option is missing.
    """
    known = {**CONNECTION_SPEC, **spec}
    unknown = [unknown_option(name, known) for name in sorted(action._task.args) if name not in known]
    if unknown:
        raise OptionError(" ".join(unknown))


def as_named(value: t.Any) -> t.Any:
    """Return a result that names each vault directory, instead of the path of its remote copy."""
    if isinstance(value, dict):
        return {key: as_named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_named(item) for item in value]
    if isinstance(value, str):
        return named(value)
    return value


@contextlib.contextmanager
def vault_location(
    action: ActionBase,
    options: t.Mapping[str, t.Any],
    task_vars: t.Mapping[str, t.Any],
    lost: t.Callable[[str], None] = lambda reason: None,
) -> t.Iterator[tuple[str, Location]]:
    """Open the location of the vault directory; give the path of the directory or of its remote copy, and the location.

    lost: called with the reason if another run takes over the lease. Raises StoreError if the location would not
    outlive this job.
    """
    if options["vault_location"] == "controller":
        yield controller_path(action, options["vault_dir"]), CONTROLLER
        return
    with remote_copy(action, options, task_vars, lost) as location:
        names[location.copy] = location.name
        yield location.copy, location


def options_of(action: ActionBase, spec: dict[str, t.Any], **rules: t.Any) -> dict[str, t.Any]:
    """Return the validated arguments of a task that calls Backblaze, with fallbacks from the environment."""
    return local_options_of(action, {**CONNECTION_SPEC, **spec}, **rules)


def local_options_of(action: ActionBase, spec: dict[str, t.Any], **rules: t.Any) -> dict[str, t.Any]:
    """Return the validated arguments of a task."""
    given = plain(action._task.args)
    refuse_text_for_lists(given, spec)
    validated = ArgumentSpecValidator(spec, **rules).validate(given)
    if validated.error_messages:
        # Misspelt options first, because they often make other options missing.
        errors = sorted(validated.errors, key=lambda error: not isinstance(error, UnsupportedError))
        raise OptionError(" ".join(_invalid(error, spec) for error in errors))
    options = t.cast("dict[str, t.Any]", plain(validated.validated_parameters))
    if not options["vault_dir"]:
        raise OptionError("vault_dir is empty.", remedy="Name the directory for the keys, or leave the option out.")
    for_git = [name for name in LOCATION_SPEC if name.startswith("vault_git_") and options.get(name)]
    if options.get("vault_location") != "git" and for_git:
        raise OptionError(f"{', '.join(for_git)} can be used with vault_location: git only.")
    if options.get("vault_location") == "git" and options.get("vault_mode") is not None:
        raise OptionError(
            "vault_mode has no meaning with vault_location: git, as Git keeps no modes.", remedy="Leave it out."
        )
    if "vault_mode" in spec:
        options["vault_mode"] = modes_of(options["vault_mode"])
    return options


def _invalid(error: Exception, spec: t.Mapping[str, t.Any]) -> str:
    """Explain an invalid argument of a task in one sentence."""
    if not isinstance(error, UnsupportedError):
        return f"{str(error).rstrip('.')}."
    known = [*spec, *(f"{above}.{name}" for above, rule in spec.items() for name in rule.get("options", ()))]
    names = re.split(r", ?", str(error).partition(". Supported parameters")[0])
    return " ".join(unknown_option(name, known) for name in names)
