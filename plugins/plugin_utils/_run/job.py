# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run is about, as values: the job, its plan, its results, and the wish to end it."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoppedError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Settled, Step, Wanted

_POLL_SECONDS = 0.05


class Stop:
    """The wish to end: no new member is created, what is under way is finished and sealed.

    A plain attribute that waits look at: it is set in signal handlers, where a lock that is held just then would never be free again.
    """

    def __init__(self) -> None:
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Ask the run to end; the first reason stands."""
        self.reason = self.reason or reason

    @property
    def asked(self) -> bool:
        """Whether the run was asked to end."""
        return bool(self.reason)

    def wait(self, seconds: float) -> None:
        """Wait, but not past the wish to end: then StoppedError."""
        deadline = time.monotonic() + seconds
        while not self.asked:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            time.sleep(min(remaining, _POLL_SECONDS))
        raise StoppedError


@dataclasses.dataclass(frozen=True)
class Policy:
    """How the user wants odd cases handled.

    recreate: replace an account whose key is lost in this run. recreate_members: addresses whose account is to be replaced, if the journal says
    that an earlier run lost its key. throwaway: form of the address that such an account gets when it is ejected. verify_keys: try every
    stored key of a wanted member, and every new one.
    """

    recreate: bool = False
    recreate_members: frozenset[str] = frozenset()
    throwaway: str = ""
    verify_keys: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """What is asked for. ``vault_lock_timeout`` in seconds."""

    group_id: str
    wanted: t.Sequence[Wanted]
    policy: Policy = Policy()
    concurrency: int = 8
    vault_lock_timeout: float = 60.0
    check_mode: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is known before the first change: one step a wanted member, and what earlier runs left open.

    paths: the file of each stored key, by address. accounts: the address of each account in the Group.
    """

    group_id: str
    steps: tuple[Step, ...]
    settled: tuple[Settled, ...]
    paths: t.Mapping[str, str]
    accounts: t.Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that change anything."""
        return tuple(step for step in self.steps if step.changes)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one wanted member. Never a key.

    made: whether this run made the account. adopted: whether a given key was stored. ejected: an account whose key was lost and that was
    ejected. known: lost by an earlier run and said then, so no news.
    """

    email: str
    outcome: Outcome
    message: str = ""
    member: t.Optional[Member] = None
    path: str = ""
    code: str = ""
    status: int = 0
    made: bool = False
    adopted: bool = False
    ejected: str = ""
    known: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything was changed, at Backblaze or in the vault."""
        return self.made or self.adopted or bool(self.ejected)

    def as_dict(self) -> dict[str, t.Any]:
        """Return the result as tasks show it: what is empty is left out."""
        shown = {
            "email": self.email,
            "outcome": self.outcome.value,
            "message": self.message,
            "account_id": self.member.account_id if self.member else "",
            "region": self.member.region if self.member else "",
            "path": self.path,
            "code": self.code,
            "status": self.status,
            "adopted": self.adopted,
            "ejected_account_id": self.ejected,
        }
        return {name: value for name, value in shown.items() if value}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run did, or in check mode would do. moved: whether the keys of earlier runs were moved to their files."""

    results: tuple[Result, ...]
    settled: tuple[Settled, ...]
    notes: tuple[str, ...] = ()
    moved: bool = False
    check_mode: bool = False


#: One Group's plan and report, or the error that kept its run from starting.
Done = t.Union[tuple[Plan, Report], B2Error]


def foreseen(step: Step, plan: Plan) -> Result:
    """Return the result of a step that goes as planned."""
    return Result(
        email=step.wanted.email,
        outcome=step.outcome,
        message=step.message,
        member=step.member,
        path=plan.paths.get(step.wanted.email, "") if step.outcome is Outcome.UNCHANGED else "",
        made=step.outcome is Outcome.CREATED,
        adopted=step.adopts,
        ejected=step.replaces.account_id if step.replaces else "",
        known=any(one.email == step.wanted.email and one.known for one in plan.settled),
    )
