# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the stand-in of the sandbox fail: the command ``fault``.

It reads the address of the stand-in from B2_ENVIRONMENT. The guide to errors lists the faults of this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))

import standin

AUTHORIZE = "b2_authorize_account"
CREATE = "b2_create_group_member"
GROUP = "hosting"


Start = Callable[[standin.Verbs, str], Any]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault with its name. argument: what the command needs besides the name, if anything. start: starts it."""

    name: str
    argument: str
    effect: str
    start: Start


def _rule(operation: str, times: int | None, **action: Any) -> Start:
    """Return a start that sends the stand-in one rule about an operation. times: None for all requests."""
    return lambda control, _argument: control.faults([{"operation": operation, "times": times, "action": action}])


def _settings(**changes: Any) -> Start:
    return lambda control, _argument: control.settings(**changes)


def _full(control: standin.Verbs, _argument: str) -> None:
    group_id = control.groups[GROUP]
    members = [one for one in control.control("members") if one["group_id"] == group_id]
    control.settings(max_members=len(members))


def _refused(control: standin.Verbs, code: str) -> None:
    _rule(CREATE, None, kind="error", status=STATUS.get(code, 401), code=code, message="refused by the sandbox")(
        control, ""
    )


def _key_deleted(control: standin.Verbs, address: str) -> None:
    action = {"kind": "error", "status": 401, "code": "unauthorized"}
    control.faults([{"operation": AUTHORIZE, "email": address, "times": None, "action": action}])


def _end(control: standin.Verbs, _argument: str) -> None:
    control.faults([])
    control.taken([])
    control.settings(**NORMAL)


#: The HTTP status of the error codes that have another status than 401.
STATUS = {"bad_request": 400, "cap_exceeded": 403, "method_failure": 420, "internal_error": 500}
#: The settings that faults change, as they are without a fault.
NORMAL = {
    name: getattr(standin.Settings(), name)
    for name in ("creates_per_second", "groups_enabled", "lag_seconds", "latency_ms", "max_members", "no_phone")
}

FAULTS = (
    Fault(
        "answer-lost",
        "",
        "Backblaze executes the next create, and its answer is lost.",
        _rule(CREATE, 1, kind="cut_after"),
    ),
    Fault(
        "another-key",
        "",
        "The answer to the next create contains the key of another account.",
        _rule(CREATE, 1, kind="foreign"),
    ),
    Fault(
        "address-taken",
        "ADDRESS",
        "The address already belongs to a Backblaze account outside the Groups.",
        lambda control, address: control.taken([*control.taken(), address]),
    ),
    Fault("refused", "CODE", "Backblaze refuses every create with this error code, such as method_failure.", _refused),
    Fault("group-full", "", "The Group hosting is full.", _full),
    Fault("no-phone", "", "The Group admin has no verified phone number.", _settings(no_phone=True)),
    Fault("not-enabled", "", "The account has no access to the Partner API.", _settings(groups_enabled=False)),
    Fault(
        "created-elsewhere",
        "ADDRESS",
        "Somebody else creates this member in the Group hosting, so your vault does not have its key.",
        lambda control, address: control.add_member(GROUP, address),
    ),
    Fault(
        "left",
        "ADDRESS",
        "Somebody else ejects this member from its Group.",
        lambda control, address: control.remove_member(address),
    ),
    Fault(
        "key-deleted",
        "ADDRESS",
        "Backblaze refuses each key of this member, as if the keys were deleted. Set verify_keys to see it.",
        _key_deleted,
    ),
    Fault("throttled", "", "Backblaze allows two creates a second.", _settings(creates_per_second=2.0)),
    Fault("slow", "", "Each answer takes a second.", _settings(latency_ms=1000.0)),
    Fault(
        "down",
        "",
        "Backblaze answers each request with 503.",
        _rule("*", None, kind="error", status=503, code="service_unavailable"),
    ),
    Fault("listed-late", "", "The Group lists a new member after 20 seconds.", _settings(lag_seconds=20.0)),
    Fault("none", "", "All faults end.", _end),
)


def start(control: standin.Verbs, name: str, argument: str = "") -> Fault:
    """Start the fault of this name; return the fault. Raises ValueError for an unknown name or a wrong argument."""
    fault = next((one for one in FAULTS if one.name == name), None)
    if fault is None:
        raise ValueError(f"there is no fault {name}. Type fault to list the faults.")
    if bool(fault.argument) != bool(argument):
        raise ValueError(f"write: fault {fault.name} {fault.argument}".rstrip())
    fault.start(control, argument)
    return fault


def main() -> None:
    """Start the named fault."""
    lines = [f"  {f'{one.name} {one.argument}':26}{one.effect}" for one in FAULTS]
    parser = argparse.ArgumentParser(
        prog="fault",
        description="Make the stand-in fail. A fault of the next create happens once. Others last until `fault none`.",
        epilog="\n".join(["faults:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="fault NAME [ADDRESS or CODE]",
    )
    parser.add_argument("name", help=argparse.SUPPRESS)
    parser.add_argument("argument", nargs="?", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(sys.argv[1:] or ["--help"])
    try:
        fault = start(standin.Control(os.environ["B2_ENVIRONMENT"]), given.name, given.argument)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"fault: {error}")
    print(fault.effect)


if __name__ == "__main__":
    main()
