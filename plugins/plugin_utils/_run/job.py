# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the values of a run: its job, plan, results and report, and the request to stop it."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoppedError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Settled, Step, Wanted

_POLL_SECONDS = 0.05


class Stop:
    """The request to stop a run: no more members are created, and the keys of creates that were sent are sealed.

    The request is a plain attribute. Signal handlers set it, and in a handler a lock may never be released. whole: the
    request to stop the whole task, if this one is about one Group.
    """

    def __init__(self, whole: t.Optional[Stop] = None) -> None:
        self._whole = whole
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the run was asked to stop; empty if it was not."""
        return self._reason or (self._whole.reason if self._whole else "")

    def ask(self, reason: str) -> None:
        """Ask the run to stop. The first reason is kept."""
        self._reason = self._reason or reason

    @property
    def asked(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(self.reason)

    def check(self) -> None:
        """Raise StoppedError if the run was asked to stop."""
        if self.asked:
            raise StoppedError

    def wait(self, seconds: float) -> None:
        """Wait; raise StoppedError as soon as the run is asked to stop."""
        deadline = time.monotonic() + seconds
        self.check()
        while (remaining := deadline - time.monotonic()) > 0:
            time.sleep(min(remaining, _POLL_SECONDS))
            self.check()


@dataclasses.dataclass(frozen=True)
class Policy:
    """The user's choices for odd cases.

    recreate: replace an account whose key is lost in this run. recreate_members: addresses whose account is replaced if
    the journal proves that an earlier run lost its key. throwaway: the form of the address that an ejected account
    gets. verify_keys: try every stored key of a wanted member, and every new key. max_failures: stop after so many
    refused members; 0 for no limit.
    """

    recreate: bool = False
    recreate_members: frozenset[str] = frozenset()
    throwaway: str = ""
    verify_keys: bool = False
    max_failures: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """The wanted members of one Group, and the options of the task. vault_lock_timeout: in seconds."""

    group_id: str
    wanted: t.Sequence[Wanted]
    policy: Policy = Policy()
    concurrency: int = 8
    vault_lock_timeout: float = 60.0
    check_mode: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """The step of each wanted member, and the outcomes of addresses that earlier runs left open.

    paths: the file of each stored key by address. accounts: the address of each account in the Group.
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
    """The outcome of one wanted member, without its key.

    detail, reason: see Step. made: whether this run created the account. ejected: the account that was ejected because
    its key was lost. known: whether an earlier run has reported that the key is lost.
    """

    email: str
    outcome: Outcome
    detail: str = ""
    member: t.Optional[Member] = None
    path: str = ""
    code: str = ""
    status: int = 0
    made: bool = False
    ejected: str = ""
    known: bool = False
    reason: str = ""

    @property
    def message(self) -> str:
        """The whole message about the member."""
        return f"{self.detail} {self.reason}".strip()

    def also(self, detail: str) -> Result:
        """Return this result with more details."""
        return dataclasses.replace(self, detail=f"{self.detail} {detail}".strip())

    @property
    def changed(self) -> bool:
        """Whether anything was changed, at Backblaze or in the vault."""
        return self.made or self.outcome is Outcome.ADOPTED or bool(self.ejected)

    def as_dict(self) -> dict[str, t.Any]:
        """Return the result as tasks show it, without its Group: a field without a value is None."""
        member = self.member or Member("", "")
        shown = {
            "email": self.email,
            "account_id": member.account_id,
            "region": member.region,
            "s3_endpoint": member.s3_endpoint,
            "outcome": self.outcome.value,
            "message": self.message,
            "path": self.path,
            "ejected_account_id": self.ejected,
            "code": self.code,
            "status": self.status,
        }
        return {name: value or None for name, value in shown.items()}


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of a run, or its foreseen results in check mode. moved: whether keys of earlier runs were moved."""

    results: tuple[Result, ...]
    settled: tuple[Settled, ...]
    notes: tuple[str, ...] = ()
    moved: bool = False
    check_mode: bool = False


#: One Group's plan and report, or the error that kept its run from starting.
Done = t.Union[tuple[Plan, Report], B2Error]


def foreseen(step: Step, plan: Plan) -> Result:
    """Return the result of a step that succeeds."""
    return Result(
        email=step.wanted.email,
        outcome=step.outcome,
        detail=step.detail,
        reason=step.reason,
        member=step.member,
        path=plan.paths.get(step.wanted.email, "") if step.outcome is Outcome.UNCHANGED else "",
        made=step.outcome is Outcome.CREATED,
        ejected=step.replaces.account_id if step.replaces else "",
        known=any(one.email == step.wanted.email and one.known for one in plan.settled),
    )
