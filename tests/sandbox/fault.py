# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let the stand-in of the sandbox misbehave: the command ``fault``.

It reads the address of the stand-in from B2_ENVIRONMENT.
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

CREATE = "b2_create_group_member"
GROUP = "hosting"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault by its name. argument: what the command needs beside the name, empty if nothing. start: begins it."""

    name: str
    argument: str
    effect: str
    start: Callable[[standin.Control, str], Any]


def _rule(operation: str, times: int | None, **action: Any) -> Callable[[standin.Control, str], Any]:
    """Return a start that sends one rule for the requests of an operation. times: None for all of them."""
    rule = {"operation": operation, "times": times, "action": action}
    return lambda control, _argument: control.control("faults", [rule])


def _settings(**changes: Any) -> Callable[[standin.Control, str], Any]:
    return lambda control, _argument: control.control("settings", changes)


def _full(control: standin.Control, _argument: str) -> None:
    members = control.control("members")
    control.control("settings", {"max_members": len(members)})


def _refused(control: standin.Control, code: str) -> None:
    action = {"kind": "error", "status": 401, "code": code}
    control.control("faults", [{"operation": CREATE, "times": 1, "action": action}])


def _end(control: standin.Control, _argument: str) -> None:
    control.control("faults", [])
    control.control("taken", [])
    control.control("settings", NORMAL)


#: The settings that faults change, as they are without a fault.
NORMAL = {
    name: getattr(standin.Settings(), name)
    for name in ("creates_per_second", "groups_enabled", "lag_seconds", "latency_ms", "max_members", "no_phone")
}

FAULTS = (
    Fault(
        "answer-lost", "", "The next create takes effect, and its answer is lost.", _rule(CREATE, 1, kind="cut_after")
    ),
    Fault("group-full", "", "The Group takes no more members.", _full),
    Fault(
        "address-taken",
        "ADDRESS",
        "The address already belongs to a Backblaze account outside the Group.",
        lambda control, address: control.control("taken", [address]),
    ),
    Fault("refused", "CODE", "The next create is refused with this error code, such as method_failure.", _refused),
    Fault(
        "created-elsewhere",
        "ADDRESS",
        "Somebody else creates this member, so its key is not in your vault.",
        lambda control, address: control.control("members", {"group": GROUP, "email": address}),
    ),
    Fault(
        "left",
        "ADDRESS",
        "This member leaves the Group, outside of Ansible.",
        lambda control, address: control.control("members", {"remove": address}),
    ),
    Fault("throttled", "", "The service allows two creates a second.", _settings(creates_per_second=2.0)),
    Fault("slow", "", "Each answer takes two seconds.", _settings(latency_ms=2000.0)),
    Fault(
        "down",
        "",
        "Each request is answered with 503.",
        _rule("*", None, kind="error", status=503, code="service_unavailable"),
    ),
    Fault("listed-late", "", "A new member is listed after 20 seconds.", _settings(lag_seconds=20.0)),
    Fault("no-phone", "", "The Group admin has no verified phone.", _settings(no_phone=True)),
    Fault("not-enabled", "", "The account is not enabled for the Partner API.", _settings(groups_enabled=False)),
    Fault("none", "", "The service is well again.", _end),
)


def main() -> None:
    """Start the named fault."""
    lines = [f"  {f'{one.name} {one.argument}':26}{one.effect}" for one in FAULTS]
    parser = argparse.ArgumentParser(
        prog="fault",
        description="Let the stand-in misbehave. A fault lasts until it has happened, or until `fault none`.",
        epilog="\n".join(["faults:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="fault NAME [ADDRESS or CODE]",
    )
    parser.add_argument("name", choices=[one.name for one in FAULTS], help=argparse.SUPPRESS)
    parser.add_argument("argument", nargs="?", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(sys.argv[1:] or ["--help"])
    fault = next(one for one in FAULTS if one.name == given.name)
    if bool(fault.argument) != bool(given.argument):
        parser.error(f"write: fault {fault.name} {fault.argument}".rstrip())
    try:
        fault.start(standin.Control(os.environ["B2_ENVIRONMENT"]), given.argument)
    except RuntimeError as error:
        sys.exit(f"fault: {error}")
    print(fault.effect)


if __name__ == "__main__":
    main()
