# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every fault at every step of the protocol, one at a time: no key is lost unsaid, no account is made twice.

The table is made from the steps and the faults, not written by hand. Each case provisions three members with one fault
in the way, then twice more without it. ``Lab`` is what the other campaigns use too.

CAMPAIGN=long runs every case; otherwise each step has all of its errors and cuts and a sample of the rest, chosen by
CAMPAIGN_SEED.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import tempfile
import time
import traceback
import typing as t

import ansible.parsing.vault as ansible_vault
import pytest
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._api import calls
from ansible_collections.community.backblaze.plugins.module_utils._api import partner as partner_api
from ansible_collections.community.backblaze.plugins.module_utils._api.calls import Caller
from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Transport
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    GROUP_CODES,
    REMEDIES,
    B2Error,
    remedy_for,
)
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run import workers
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import (
    Job,
    Plan,
    Policy,
    Report,
    Result,
    Stop,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import mark_told, provision
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, read_key
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from project import Project, serving
from project import standin as partner

LONG = os.environ.get("CAMPAIGN") == "long"
SEED = int(os.environ.get("CAMPAIGN_SEED") or random.SystemRandom().randrange(10**6))
#: Seconds that no run in process may take, whatever the server does.
BOUND = 10.0

AUTHORIZE, LIST_GROUPS, LIST_MEMBERS, CREATE, EJECT = (
    calls.AUTHORIZE,
    partner_api.LIST_GROUPS,
    partner_api.LIST_MEMBERS,
    partner_api.CREATE_MEMBER,
    partner_api.EJECT_MEMBER,
)
VICTIM, OTHERS = "bob@customers.example.com", ("alice@customers.example.com", "cleo@customers.example.com")
WANTED = [Wanted(OTHERS[0]), Wanted(VICTIM, "eu-central"), Wanted(OTHERS[1])]
#: Replace accounts whose key is lost: in this run, and by the user's word in an earlier one.
RECREATE = Policy(recreate=True, recreate_members=frozenset({VICTIM, *OTHERS}), throwaway="lost-{account_id}@{domain}")

_FEW_ROUNDS = 10


def quicken() -> None:
    """Make waiting and key derivation quick in this process. The vault format, the files and the syncs stay what they
    are."""
    workers.STORE_DELAYS = (0.0, 0.0)
    derive = getattr(ansible_vault, "PBKDF2HMAC", None)
    if derive is not None and not hasattr(derive, "slow"):

        def quick(*args: t.Any, **options: t.Any) -> t.Any:
            return derive(*args, **{**options, "iterations": _FEW_ROUNDS})

        quick.slow = derive  # type: ignore[attr-defined]
        ansible_vault.PBKDF2HMAC = quick


def slacken() -> None:
    """Take the quick key derivation back."""
    ansible_vault.PBKDF2HMAC = getattr(ansible_vault.PBKDF2HMAC, "slow", ansible_vault.PBKDF2HMAC)


class Broken(AssertionError):
    """A promise was broken."""


def promise(kept: t.Any, what: str) -> None:
    """Fail with what was promised; unlike assert it speaks from another process too."""
    if not kept:
        raise Broken(what)


class NoSleep(Stop):
    """Waits for nothing, and ends a run that would wait for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.deadline = time.monotonic() + BOUND
        self.slept = 0.0

    def wait(self, seconds: float) -> None:
        self.slept += seconds
        if time.monotonic() > self.deadline:
            self.ask("it waited again and again for longer than any run may take")
        super().wait(0)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run of the provisioner came to: a report, or the error that ended it before the first change."""

    plan: t.Optional[Plan]
    report: t.Optional[Report]
    error: t.Optional[B2Error]
    calls: t.Mapping[str, int]
    seconds: float

    @property
    def results(self) -> dict[str, Result]:
        return {one.email: one for one in self.report.results} if self.report else {}

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {email: one.outcome for email, one in self.results.items()}

    @property
    def changes(self) -> int:
        """How many calls it made that change something at Backblaze."""
        return self.calls.get(CREATE, 0) + self.calls.get(EJECT, 0)


class Lab:
    """A stand-in in this process, a vault directory, and the provisioner between them."""

    def __init__(self, directory: pathlib.Path, **settings: t.Any) -> None:
        quicken()
        self.directory = directory
        self.vault_dir = directory / "host_vars"
        self.server = partner.StandIn(groups=["hosting"], settings=settings).start()
        self.sealer = Sealer([("default", VaultSecret(b"not a secret"))])

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.server.stop()
        slacken()

    def client(
        self, stop: t.Optional[Stop] = None, *, timeout: float = 5.0, max_retries: int = 2, connections: int = 3
    ) -> Partner:
        settings = self.server.partner.settings
        transport = Transport(timeout=timeout, verify=True, connections=connections)
        wait = (stop or NoSleep()).wait
        return Partner(
            Caller(
                transport,
                Repeater(max_retries, wait),
                realm=self.server.url,
                key_id=settings.admin_key_id,
                key=settings.admin_key,
            )
        )

    def store(self, name: str = "host_vars") -> HostVarsStore:
        return HostVarsStore(str(self.directory / name), self.sealer)

    def run(
        self, wanted: t.Sequence[Wanted], *, policy: Policy = Policy(), check: bool = False, **options: t.Any
    ) -> Run:
        """Provision, as a task would. Anything but a B2Error is not caught: it would be a traceback for the user."""
        stop = NoSleep()
        client = self.client(stop, **options)
        plan = report = error = None
        started = time.monotonic()
        try:
            group_id = client.group_id("hosting")
            job = Job(group_id, wanted, policy, concurrency=3, vault_lock_timeout=0.0, check_mode=check)
            store = self.store()
            plan, report = provision(
                client, job, store, FallbackStore(str(self.directory / "fallback"), self.sealer), stop
            )
            mark_told([(job, store)], [(plan, report)])
        except B2Error as exc:
            error = exc
        finally:
            client.close()
        return Run(plan, report, error, client.calls, time.monotonic() - started)

    def sealed(self) -> dict[str, StoredKey]:
        """What each vault file holds, by address; a file that does not decrypt raises."""
        names = sorted(os.listdir(self.vault_dir)) if self.vault_dir.is_dir() else []
        read = {name: self.store().read(name) for name in names if not name.startswith(".")}
        return {name: variables for name, variables in read.items() if variables}

    def kept(self) -> dict[str, str]:
        """Return every key that is encrypted on disk, in its vault file or not, with the address of its file."""
        found = {variables.key: email for email, variables in self.sealed().items()}
        found.update((variables.key, email) for email, variables in self.aside().items())
        fallback = FallbackStore(str(self.directory / "fallback"), self.sealer)
        return {
            **found,
            **{variables.key: variables.email for _path, variables in fallback.found()},
        }

    def aside(self) -> dict[str, StoredKey]:
        """Return the key in each file of an unproven key, by the address of the vault file beside it."""
        files = self.vault_dir.glob("*/.b2_vault.yml.*.aside")
        return {path.parent.name: read_key(self.sealer.open(path.read_bytes(), str(path)), str(path)) for path in files}

    def created(self) -> list[dict[str, t.Any]]:
        """The ledger's entries of members that the client created."""
        return [entry for entry in self.server.ledger() if entry["operation"] == CREATE]

    def tree(self, state: bool = True) -> dict[str, tuple[int, bytes]]:
        """Every file under the vault directory with its time and bytes. state: lock and journal too."""
        found = {}
        for path in sorted(self.vault_dir.rglob("*")):
            if path.is_file() and (state or ".b2_members" not in path.parts):
                found[str(path)] = (path.stat().st_mtime_ns, path.read_bytes())
        return found

    def members(self) -> dict[str, str]:
        """Account ids by address, as the stand-in has them."""
        return {row["email"].lower(): row["account_id"] for row in self.server.state()["members"]}


def check_invariants(
    lab: Lab,
    run: Run,
    wanted: t.Sequence[Wanted],
    known: t.Collection[str],
    most: int = 1,
    nameless: bool = False,
    removed: t.Collection[str] = (),
    counterfeit: t.Collection[str] = (),
) -> None:
    """Hold one run against what is never bent.

    known: account ids whose keys were handed out before this run. most: how many accounts an address may have had.
    nameless: whether a lost key may be reported without its account id, because the look-up was disturbed too. removed:
    keys whose files the user has taken away. counterfeit: addresses whose create answer held another text instead
    of the key: the run can only seal this text.
    """
    promise(run.seconds < BOUND, f"the run took {run.seconds:.0f} s")
    entries = lab.created()
    keys = lab.kept()
    if run.error is not None:
        new = [entry["email"] for entry in entries if entry["account_id"] not in known]
        promise(not new, f"the run ended with {run.error} after {new} had been created")
    else:
        report = t.cast(Report, run.report)
        promise(
            [one.email for one in report.results] == [one.email for one in wanted],
            "not every wanted member has exactly one outcome",
        )
        promise(all(isinstance(one.outcome, Outcome) for one in report.results), "an outcome is none of the vocabulary")
    for entry in entries:
        sealed = keys.get(entry["key"]) == entry["email"].lower()
        promise(
            sealed or not entry["delivered"] or entry["key"] in removed,
            f"the key of {entry['email']} was delivered and is not sealed",
        )
        if sealed or entry["account_id"] in known or run.report is None:
            continue
        one = run.results.get(entry["email"].lower())
        if one and entry["email"].lower() in counterfeit and one.outcome is Outcome.CREATED:
            promise(
                entry["email"].lower() in keys.values(),
                f"{entry['email']} is said to be created, and nothing is sealed for it",
            )
            continue
        said = [result.message for result in run.results.values() if entry["account_id"] in result.message]
        lost = one is not None and one.outcome is Outcome.KEY_LOST
        promise(
            said or (nameless and lost),
            f"the key of {entry['email']} ({entry['account_id']}) is lost and nobody said so: {one}",
        )
        promise(lost or most > 1, f"{entry['email']} lost its key and is {one.outcome.value if one else None}")
    handed = {entry["key"] for entry in lab.server.ledger()}
    invented = {email for key, email in keys.items() if key not in handed}
    promise(invented <= set(counterfeit), f"a key is sealed that was never handed out: {invented}")
    counts = collections.Counter(entry["email"].lower() for entry in entries)
    promise(all(count <= most for count in counts.values()), f"more than {most} accounts for an address: {counts}")
    for email, variables in lab.sealed().items():
        if email in invented:
            continue
        entry = next(entry for entry in lab.server.ledger() if entry["key"] == variables.key)
        promise(entry["email"].lower() == email, f"the key of {entry['email']} is in the vault file of {email}")
        promise(variables.account_id in ("", entry["account_id"]), f"{email} is sealed with a wrong account id")


# The faults

#: The statuses with which Backblaze sends each code.
STATUSES: dict[str, tuple[int, ...]] = {
    "bad_request": (400,),
    "method_failure": (401, 420),
    "access_denied": (403,),
    "storage_cap_exceeded": (403,),
    "request_timeout": (408,),
    "too_many_requests": (429,),
    "internal_error": (500,),
    "bad_gateway": (502,),
    "service_unavailable": (503,),
    "gateway_timeout": (504,),
}
CODES = [code for code in REMEDIES if code != "cap_exceeded"] + ["storage_cap_exceeded"]

_KEY_AT = len('{"applicationKey":"')
_KEY_END = _KEY_AT + 31

REWRITES: dict[str, t.Callable[[t.Any], t.Any]] = {
    "in an object": lambda body: {"result": body},
    "in two objects": lambda body: {"data": {"answer": body, "count": 1}},
    "in an array": lambda body: [body],
    "in two arrays": lambda body: [[body]],
    "second in an array": lambda body: [{"status": "ok"}, body],
    "member apart": lambda body: [
        {"applicationKey": body.get("applicationKey")},
        {key: value for key, value in body.items() if key != "applicationKey"},
    ],
    "fields renamed": lambda body: {f"the_{name}": value for name, value in body.items()},
    "fields in capitals": lambda body: {name.upper(): value for name, value in body.items()},
    "as text": json.dumps,
    "as text of text": lambda body: json.dumps(json.dumps(body)),
    "fields as pairs": lambda body: [[name, value] for name, value in body.items()],
    "other fields gone": lambda body: {
        "applicationKey": body.get("applicationKey"),
        "applicationKeyId": body.get("applicationKeyId"),
    },
    "flat": lambda body: {
        **{name: value for name, value in body.items() if name != "groupMember"},
        **(body.get("groupMember") or {}),
    },
    "beside a null": lambda body: [None, body],
}


async def fault_rewrite(exchange: t.Any, *, how: str) -> None:
    """Execute, and answer the true body rewritten; only for a stand-in in this process."""
    answer = await exchange.execute()
    if answer.status < 300:
        answer.body = REWRITES[how](answer.body)
    await exchange.answer(answer)


partner.FAULTS["rewrite"] = fault_rewrite


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that can happen to a request.

    slow: it costs waiting, so the client is given little patience. everybodys: it stops all members that are not done
    yet, not only the one
    that it hit: it speaks of the whole account.
    """

    name: str
    action: t.Mapping[str, t.Any]
    code: str = ""
    slow: bool = False
    sampled: bool = False
    everybodys: bool = False


def faults(fields: t.Sequence[str], other_url: str = "http://127.0.0.1:9") -> list[Fault]:
    """Return all faults for an operation whose answer has these fields."""
    found = [
        Fault(f"error {status} {code}", {"kind": "error", "status": status, "code": code, "message": "injected"}, code)
        for code in [*CODES, "never_heard_of"]
        for status in STATUSES.get(code, (401,))
    ]
    found += [
        Fault(f"error {status} without code", {"kind": "error", "status": status, "code": ""}, sampled=True)
        for status in (400, 401, 404, 418, 500, 503)
    ]
    found += [
        Fault(f"throttle {arguments}", {"kind": "throttle", **arguments}, "too_many_requests")
        for arguments in (
            {},
            {"retry_after": 1},
            {"retry_after": 0},
            {"retry_after": "0.001"},
            {"retry_after": "soon"},
            {"retry_after_date": 2},
            {"retry_after_date": -3600},
        )
    ]
    # Nobody waits as long as this asks for, and whoever would have to does not begin.
    patience = {"kind": "throttle", "retry_after": 999999999}
    found.append(Fault("throttle beyond patience", patience, "too_many_requests", everybodys=True))
    found += [
        Fault(f"executed, then {status} {code}", {"kind": "error", "status": status, "code": code, "execute": True})
        for status, code in ((401, "expired_auth_token"), (401, "bad_auth_token"), (429, "too_many_requests"))
    ]
    found += [
        Fault(
            f"the answer in a {status} {code}",
            {"kind": "raw", "status": status, "execute": True, "body": f'{{"code":"{code}","answer":@BODY@}}'},
        )
        for status, code in ((401, "expired_auth_token"), (429, "too_many_requests"), (500, "internal_error"))
    ]
    found += [
        Fault(f"interim {statuses}", {"kind": "interim", "statuses": statuses, "seconds": 0.02})
        for statuses in ([103], [102, 103])
    ]
    found += [
        Fault(f"early {name}", {"kind": "early", "seconds": 0.02, **arguments})
        for name, arguments in {
            "object": {},
            "204": {"status": 204},
            "nothing": {"body": ""},
            "429": {"status": 429, "body": '{"code":"too_many_requests"}'},
            "401": {"status": 401, "body": '{"code":"expired_auth_token"}'},
        }.items()
    ]
    found += [Fault(kind, {"kind": kind}) for kind in ("cut_before", "cut_after", "expire_token")]
    found += [Fault(kind, {"kind": kind}, slow=True) for kind in ("hang_before", "hang_after")]
    found += [
        Fault("hang_after, late answer", {"kind": "hang_after", "seconds": 0.6}, slow=True),
        Fault("delay", {"kind": "delay", "seconds": 0.6}, slow=True),
        Fault("drip", {"kind": "drip", "seconds": 0.05}, slow=True),
    ]
    for size in (0, 1, _KEY_AT + 4, _KEY_END - 1, _KEY_END, _KEY_END + 1, _KEY_END + 30, _KEY_END + 48, _KEY_END + 80):
        found.append(Fault(f"truncate after {size}", {"kind": "truncate", "bytes": size}))
    found += [
        Fault(f"truncate at {fraction}", {"kind": "truncate", "fraction": fraction}) for fraction in (0.25, 0.75, 0.99)
    ]
    found += [Fault(f"empty {status}", {"kind": "empty", "status": status}) for status in (200, 204, 500)]
    found += [Fault(f"html {status}", {"kind": "html", "status": status}) for status in (200, 502)]
    for body in (
        "not json",
        "null",
        "[]",
        "{}",
        "[[]]",
        "3",
        "\x00\udcff\udcfe",
        "[" * 5000,
        "\ufeff@BODY@",
        ")]}',\n@BODY@",
        "@BODY@ and more",
        "@BODY@@BODY@",
        '{"data":"@BODY@"}',
        "HTTP/1.1 200 OK\r\n\r\n@BODY@",
    ):
        found.append(Fault(f"raw {body[:24]!r}", {"kind": "raw", "body": body}, sampled=True))
    found += [Fault(f"rewritten: {how}", {"kind": "rewrite", "how": how}, sampled=True) for how in REWRITES]
    for field in fields:
        *above, last = field.split(".")
        for what, value in {
            "missing": None,
            "null": "@NULL@",
            "number": 7,
            "text": "x",
            "list": [],
            "object": {},
        }.items():
            body: dict[str, t.Any] = {last: value}
            for name in reversed(above):
                body = {name: body}
            found.append(Fault(f"{field} {what}", {"kind": "patch", "body": body}, sampled=True))
    found += [
        Fault(f"redirect {status}", {"kind": "redirect", "status": status, "location": other_url})
        for status in (302, 307)
    ]
    found += [Fault("endless", {"kind": "endless", "limit_bytes": 64 * 1024 * 1024}, slow=True)]
    found += [Fault("endless drip", {"kind": "endless", "rate": 4096}, slow=True)]
    return found


#: Keys of another account in the answer to a create.
FOREIGN = [
    Fault(f"another account's {' and '.join(parts)}", {"kind": "foreign", "parts": parts})
    for parts in (
        ["applicationKey", "applicationKeyId", "groupMember"],
        ["applicationKey", "applicationKeyId"],
        ["applicationKeyId"],
        ["groupMember"],
    )
] + [
    Fault(f"another account's answer {location} it", {"kind": "foreign", "place": location})
    for location in ("before", "after")
]

FIELDS: dict[str, tuple[str, ...]] = {
    AUTHORIZE: ("accountId", "authorizationToken", "apiInfo", "apiInfo.groupsApi", "apiInfo.groupsApi.groupsApiUrl"),
    LIST_GROUPS: ("groups", "groups.*.groupId", "groups.*.groupName", "nextGroupId"),
    LIST_MEMBERS: (
        "groupMembers",
        "groupMembers.*.accountId",
        "groupMembers.*.email",
        "groupMembers.*.region",
        "nextEmail",
        "groupName",
    ),
    CREATE: (
        "applicationKeyId",
        "groupMember",
        "groupMember.accountId",
        "groupMember.email",
        "groupMember.groupId",
        "groupMember.region",
    ),
    EJECT: ("accountId", "email", "groupId"),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A request of the protocol that a fault can hit.

    rule: which request it is. before: faults that lead there. recreates: it is reached by replacing an account whose
    key was lost.
    """

    name: str
    operation: str
    rule: t.Mapping[str, t.Any]
    before: tuple[t.Mapping[str, t.Any], ...] = ()
    recreates: bool = False


STEPS = (
    Step("authorize", AUTHORIZE, {}),
    Step(
        "authorize again", AUTHORIZE, {"after": 1}, ({"operation": LIST_MEMBERS, "action": {"kind": "expire_token"}},)
    ),
    Step("list groups", LIST_GROUPS, {}),
    Step("list members, first page", LIST_MEMBERS, {}),
    Step("list members, second page", LIST_MEMBERS, {"after": 1}),
    Step(
        "look-up",
        LIST_MEMBERS,
        {"email": VICTIM},
        ({"operation": CREATE, "email": VICTIM, "action": {"kind": "cut_after"}},),
    ),
    Step(
        "look-up, nothing made",
        LIST_MEMBERS,
        {"email": VICTIM},
        ({"operation": CREATE, "email": VICTIM, "action": {"kind": "cut_before"}},),
    ),
    Step("create", CREATE, {"email": VICTIM}),
    Step(
        "create after a look-up",
        CREATE,
        {"email": VICTIM, "after": 0},
        ({"operation": CREATE, "email": VICTIM, "action": {"kind": "cut_before"}},),
    ),
    Step("eject", EJECT, {}, (), True),
    Step("create after an eject", CREATE, {"email": VICTIM}, (), True),
)


@dataclasses.dataclass(frozen=True)
class Case:
    step: Step
    fault: Fault
    times: t.Optional[int]

    def __str__(self) -> str:
        return f"{self.step.name}: {self.fault.name}, {'once' if self.times else 'always'}"


def table() -> list[Case]:
    """Return every case there is."""
    found = [
        Case(step, fault, times) for step in STEPS for fault in faults(FIELDS[step.operation]) for times in (1, None)
    ]
    # Once: each time it would be another one's.
    return [*found, *(Case(step, fault, 1) for step in STEPS if step.operation == CREATE for fault in FOREIGN)]


def chosen(cases: list[Case], seed: int) -> list[Case]:
    """Return the cases of this form of the campaign."""
    if LONG:
        return cases
    chance = random.Random(seed)

    def runs(case: Case) -> bool:
        if case.fault.slow:
            return case.times == 1 and (case.step.name == "create" or chance.random() < 0.15)
        if case.fault.sampled:
            return case.times == 1 and (case.step.name == "create" or chance.random() < 0.15)
        return case.step.name == "create" or (case.times == 1 and chance.random() < 0.4) or chance.random() < 0.1

    return [case for case in cases if runs(case)]


def run_case(case: Case) -> str:
    """Play one case; return the promise that was broken, or nothing."""
    page = partner_api._MEMBERS_PER_PAGE
    with tempfile.TemporaryDirectory(prefix="b2-faults-") as directory, Lab(pathlib.Path(directory)) as lab:
        try:
            _play(lab, case)
        except Broken as exc:
            return f"{case}: {exc}"
        except Exception as exc:  # noqa: BLE001 - a traceback for the user, whatever it is
            return f"{case}: {type(exc).__name__}: {exc} {traceback.format_exc(limit=-3)}"
        finally:
            partner_api._MEMBERS_PER_PAGE = page
    return ""


def _play(lab: Lab, case: Case) -> None:
    server, step = lab.server, case.step
    # Members that somebody else made: never to be touched. With two to a page there is a second page.
    strangers = {
        server.add_member("hosting", f"{name}@elsewhere.example")["accountId"]
        for name in ("a-stranger", "b-stranger", "z-stranger")
    }
    if "page" in step.name:
        partner_api._MEMBERS_PER_PAGE = 2
    policy, known, most = Policy(), set(), 1
    if step.recreates:
        server.faults([{"operation": CREATE, "email": VICTIM, "action": {"kind": "cut_after"}}])
        first = lab.run(WANTED)
        check_invariants(lab, first, WANTED, known)
        promise(first.outcomes[VICTIM] is Outcome.KEY_LOST, "cut_after did not lose the key")
        known = {entry["account_id"] for entry in lab.created()}
        policy, most = RECREATE, 2
    rule = {"operation": step.operation, "times": case.times, "action": dict(case.fault.action), **step.rule}
    server.faults([*(dict(before) for before in step.before), rule])
    # A client of little patience where the fault costs time.
    options = {"timeout": 0.3, "max_retries": 1} if case.fault.slow else {}
    run = lab.run(WANTED, policy=policy, **options)
    promise(server.faults()[-1]["hits"], f"the fault was never met: {run.outcomes} {run.error}")
    check_invariants(lab, run, WANTED, known, most, nameless=step.operation == LIST_MEMBERS)
    # A token that expires again and again is everybody's.
    if (
        run.report
        and step.operation in (CREATE, EJECT)
        and not (case.fault.name == "expire_token" and case.times is None)
    ):
        stops = case.fault.everybodys or (step.operation == CREATE and case.fault.code in GROUP_CODES)
        fine = {Outcome.CREATED, Outcome.UNCHANGED} | ({Outcome.NOT_ATTEMPTED} if stops else set())
        for email in OTHERS:
            promise(
                run.outcomes[email] in fine,
                f"{email} is {run.outcomes[email]}, though nothing happened to it",
            )
    if run.error:
        promise(run.error.remedy or run.error.happened, "an error without words")
    elif step.name == "create" and case.fault.code and case.times is None:
        one = run.results[VICTIM]
        promise(
            one.outcome is Outcome.REFUSED and one.code == case.fault.code,
            f"{one.outcome} with code {one.code!r} instead of a refusal",
        )
        promise(one.status and remedy_for(case.fault.code)[1] in one.message, f"no status or remedy in {one.message!r}")
    _settle(
        lab, policy, most, {Outcome.KEY_LOST} | ({Outcome.KEY_MISSING} if step.operation == LIST_MEMBERS else set())
    )
    promise(strangers <= set(lab.members().values()), "a member that somebody else made was ejected")


def _settle(lab: Lab, policy: Policy, most: int, without_key: t.Collection[Outcome]) -> None:
    """Without faults a second run has to bring everything in order, and a third has nothing to do.

    without_key: what may be said of a member whose key was lost; a listing that lied makes ours look like somebody
    else's.
    """
    lab.server.faults([])
    known = {entry["account_id"] for entry in lab.created()}
    second = lab.run(WANTED, policy=policy)
    promise(second.report, f"the second run failed: {second.error}")
    check_invariants(lab, second, WANTED, known, most + policy.recreate)
    unfit = {
        email: one
        for email, one in second.results.items()
        if one.outcome not in (Outcome.UNCHANGED, Outcome.CREATED, Outcome.KEY_LOST, Outcome.KEY_MISSING)
    }
    promise(not unfit, f"after the second run: {unfit}")
    stored = {variables.key for variables in lab.sealed().values() if variables.key_id}
    members = lab.members()
    for entry in lab.created():
        if entry["key"] not in stored and members.get(entry["email"].lower()) == entry["account_id"]:
            one = second.results[entry["email"].lower()]
            lost = one.outcome in without_key and one.member and one.member.account_id == entry["account_id"]
            promise(lost, f"{entry['email']} has lost its key, and the second run says {one}")
    before, state = lab.tree(state=False), lab.server.state()["accounts"]
    third = lab.run(WANTED, policy=Policy())
    expected = {
        email: Outcome.UNCHANGED if outcome is Outcome.CREATED else outcome
        for email, outcome in second.outcomes.items()
    }
    promise(third.outcomes == expected, f"the third run says {third.outcomes}, the second {second.outcomes}")
    promise(
        not third.changes and lab.tree(state=False) == before and lab.server.state()["accounts"] == state,
        "the third run changed something",
    )


def play_all(cases: t.Sequence[Case]) -> list[str]:
    """Play cases on every core; each process has stand-ins of its own."""
    workers = os.cpu_count() or 1
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [broken for broken in pool.map(run_case, cases, chunksize=8) if broken]


def test_every_fault_at_every_step_leaves_no_key_unsaid():
    everything = table()
    cases = chosen(everything, SEED)
    started = time.monotonic()
    broken = play_all(cases)
    seconds = time.monotonic() - started
    print(
        f"\nfaults: {len(cases)} of {len(everything)} cases, {len({case.fault.name for case in cases})} faults at "
        f"{len(STEPS)} steps, "
        f"three runs each; "
        f"{len(broken)} broken promises; seed {SEED}; {seconds:.0f} s"
    )
    assert not broken, "\n".join(broken)


def test_the_checks_see_a_lost_key(tmp_path, monkeypatch):
    """The campaign would be worth nothing if it could not fail."""
    with Lab(tmp_path) as lab:
        monkeypatch.setattr(HostVarsStore, "seal", lambda self, key, again=False: self.file(key.email))
        run = lab.run(WANTED)
        assert set(run.outcomes.values()) == {Outcome.CREATED}
        with pytest.raises(Broken, match="delivered and is not sealed"):
            check_invariants(lab, run, WANTED, set())


# Replacing accounts whose key was lost


def lose_key(lab: Lab, policy: Policy = Policy()) -> str:
    """Have the victim created and its key lost; return its account id."""
    lab.server.faults([{"operation": CREATE, "email": VICTIM, "action": {"kind": "cut_after"}}])
    run = lab.run(WANTED, policy=policy)
    assert run.outcomes[VICTIM] is Outcome.KEY_LOST
    return str(run.results[VICTIM].member.account_id)


def test_a_lost_account_is_ejected_and_its_member_recreated(tmp_path):
    with Lab(tmp_path) as lab:
        lost = lose_key(lab)
        run = lab.run(WANTED, policy=RECREATE)
        assert run.outcomes[VICTIM] is Outcome.CREATED and run.calls[EJECT] == run.calls[CREATE] == 1
        assert lost in run.results[VICTIM].message and "billed" in run.results[VICTIM].message
        assert lab.sealed()[VICTIM].account_id == lab.members()[VICTIM] != lost
        check_invariants(lab, run, WANTED, {lost}, 2)


def test_an_address_that_is_not_freed_is_said_with_the_account(tmp_path):
    with Lab(tmp_path, eject_frees_address=False) as lab:
        lost = lose_key(lab)
        one = lab.run(WANTED, policy=RECREATE).results[VICTIM]
        assert one.outcome is Outcome.REFUSED and one.code == "invalid_email"
        assert lost in one.message and f"not free the address {VICTIM}" in one.message
        again = lab.run(WANTED, policy=RECREATE)
        assert EJECT not in again.calls and again.outcomes[VICTIM] is Outcome.REFUSED


def test_nobody_elses_member_is_ever_ejected(tmp_path):
    """A member without a key that the journal does not prove to be ours stays, whatever the policy."""
    with Lab(tmp_path) as lab:
        lab.server.add_member("hosting", VICTIM, "eu-central")
        run = lab.run(WANTED, policy=RECREATE)
        assert run.outcomes[VICTIM] is Outcome.KEY_MISSING and EJECT not in run.calls


@pytest.mark.parametrize(
    "events", [["pending"], ["presumed"], ["lost"], ["lost", "ejecting"], ["ejecting"], ["fallback"]]
)
def test_no_line_in_the_journal_has_an_account_ejected(tmp_path, events):
    """Whoever can push to the branch, or write on the target host, can write there whatever they like."""
    by_itself = dataclasses.replace(RECREATE, recreate_members=frozenset())
    with Lab(tmp_path) as lab:
        live = {
            email: lab.server.add_member("hosting", email, "eu-central")["accountId"] for email in (VICTIM, OTHERS[0])
        }
        lab.run([WANTED[2]])
        (journal,) = lab.vault_dir.glob(".b2_members/*/journal.jsonl")
        group = journal.parent.name
        with open(journal, "a", encoding="utf-8") as file:
            for email, account_id in live.items():
                file.writelines(
                    json.dumps({"event": event, "email": email, "group_id": group, "account_id": account_id}) + "\n"
                    for event in events
                )
        for _run in range(2):
            run = lab.run(WANTED, policy=by_itself)
            assert EJECT not in run.calls and live.items() <= lab.members().items(), run.results


@pytest.mark.parametrize("kind", ["cut_before", "hang_before", "error", "html", "throttle"])
def test_a_member_made_by_hand_after_a_failed_create_is_not_ejected(tmp_path, kind):
    """Our create was not executed, its look-up said so; then somebody makes the member by hand. That account is not
    ours to eject."""
    action = {"kind": kind, **({"status": 500} if kind == "error" else {})}
    with Lab(tmp_path) as lab:
        lab.server.faults([{"operation": CREATE, "email": VICTIM, "times": None, "action": action}])
        run = lab.run(WANTED, timeout=0.3, max_retries=1)
        assert run.outcomes[VICTIM] in (Outcome.NOT_ATTEMPTED, Outcome.REFUSED) and VICTIM not in lab.members()
        lab.server.faults([])
        by_hand = lab.server.add_member("hosting", VICTIM, "eu-central")["accountId"]
        run = lab.run(WANTED, policy=RECREATE)
        assert lab.members().get(VICTIM) == by_hand, f"the account made by hand was ejected: {run.results[VICTIM]}"


# Through real processes

#: One of each kind of end, at the steps that matter most.
SAMPLE = (
    ("cut_after", CREATE, {"kind": "cut_after"}, Outcome.KEY_LOST),
    ("truncate after the key", CREATE, {"kind": "truncate", "bytes": _KEY_END + 48}, Outcome.CREATED),
    (
        "refused",
        CREATE,
        {"kind": "error", "status": 401, "code": "invalid_email", "message": "injected"},
        Outcome.REFUSED,
    ),
    ("throttle", CREATE, {"kind": "throttle", "retry_after": 1}, Outcome.CREATED),
    ("html at the listing", LIST_MEMBERS, {"kind": "html"}, Outcome.CREATED),
    ("token expires", CREATE, {"kind": "expire_token"}, Outcome.CREATED),
)


@pytest.mark.parametrize(
    ("operation", "action", "outcome"), [row[1:] for row in SAMPLE], ids=[row[0] for row in SAMPLE]
)
def test_the_same_through_ansible_playbook(tmp_path, operation, action, outcome):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        rule = {"operation": operation, "action": action, **({"email": VICTIM} if operation == CREATE else {})}
        server.faults([rule])
        wanted = [{"email": one.email, **({"region": one.region} if one.region else {})} for one in WANTED]
        play = project.play(wanted, return_members="always")
        process, result = project.run(play)
        ends = {one["email"]: one["outcome"] for one in result["members"]}
        assert ends == {VICTIM: outcome.value, **dict.fromkeys(OTHERS, "created")}, process.stdout
        assert server.faults()[0]["hits"] == 1 and "Traceback" not in process.stdout + process.stderr
        lost = [] if outcome is not Outcome.KEY_LOST else [VICTIM]
        assert project.compare().not_stored == lost and not project.compare().doubled
        assert bool(result.get("failed")) == (outcome is not Outcome.CREATED)
        if lost:
            [account_id] = [entry["account_id"] for entry in server.ledger() if entry["email"] == VICTIM]
            assert account_id in result["msg"], result["msg"]
        print(f"\nfaults, ansible-playbook: {action['kind']} at {operation}: {outcome.value}; {project.compare()}")
