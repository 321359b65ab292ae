# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the Backblaze Partner API, for tests, demos and benchmarks.

It speaks the Partner API (and, of a member's own account, the three key operations and an empty list of buckets) on a
loopback address, remembers every key it ever handed out, and misbehaves on request: it can refuse, stall, cut the line
or act and lose the answer. Python's standard library is all it needs.

In a test, in the same process::

    with StandIn(groups=["hosting", "resale:5000"], settings={"shape": "array"}) as standin:
        standin.faults([{"operation": "b2_create_group_member", "action": {"kind": "cut_after"}}])
        ...  # point the client at standin.url
        assert [entry["delivered"] for entry in standin.ledger()] == [False]

On its own::

    python standin.py --group hosting --group resale:5000 --latency-ms 40 --ready-file /tmp/standin.json

It prints one line of JSON, ``{"url", "pid", "groups": {name: id}}``, which it also puts into the ready file; then
``Control(url)`` has the methods of ``StandIn`` from any other process. It stops at SIGTERM, at SIGINT, after
``--max-seconds``, and when the process ``--parent`` is gone.

Control: ``/_standin/<verb>``, GET to look, POST JSON to change

=========  ==================================================  =====================================================
verb       POST                                                answer
=========  ==================================================  =====================================================
state                                                          settings, groups, members, accounts, calls, high water
ledger                                                         every key handed out, oldest first
log                                                            the last requests, without secrets
settings   ``{name: value, ...}``, see ``Settings``            all settings
faults     ``[rule, ...]`` replaces all rules                  the rules left, with ``matches`` and ``hits``
groups     ``{"name", "id"?, "sso_domain"?, "members"?: n}``   the Group (GET: all of them)
           ``{"remove": id}``
members    ``{"group": id or name, "email", "region"?}``       the member with its key (GET: all members, no keys)
           ``{"remove": email or account id, "email"?: new}``  the member that left
taken      ``[email, ...]`` replaces the list                  addresses of accounts outside the Groups
tokens     ``{"action": "expire"}`` or ``"revoke"``            how many tokens were struck (GET: every token handed out)
reset      ``{}``                                              as it was at the start, Group ids included
=========  ==================================================  =====================================================

Faults: ``{"operation": name or "*", "email"?, "after"?: 0, "times"?: 1, "probability"?, "action": {"kind": ...}}``

The first rule that fires has the request to itself. ``email`` is the address the request is about; ``after`` lets the
first n matches pass; ``times`` null is for ever. ``execute`` says whether the operation takes place behind the
fault; left out, it does if the status is a 2xx.

=============  =====================================================================================================
kind           arguments (default)
=============  =====================================================================================================
error          status, code ("internal_error"), message, headers ({}), execute
throttle       retry_after (number or any text), retry_after_date (seconds from now, sent as an HTTP date): a 429
cut_before     connection reset, nothing executed
cut_after      executed, then reset without an answer
hang_before    seconds (null: until the client leaves), nothing executed, closed without an answer
hang_after     seconds (null), executed; then a late answer if ``answer`` (true) and seconds is given, and closed
truncate       bytes or fraction (0.5): executed, full Content-Length, that much of the body, closed
empty          status (200), execute: no body
html           status (502), body, execute
raw            status (200), body, headers ({}), execute; ``@BODY@`` in body stands for the true one
patch          body: executed, merged into the true object; null deletes a field, "@NULL@" makes it null, and in a
               list "0" or "*" names its items
redirect       location, status (302)
delay          seconds, then as usual
endless        status (200), limit_bytes (256 MiB), rate (bytes/s, null), chunked (true), headers ({}), execute
expire_token   the token of this request expires: 401 expired_auth_token, nothing executed
interim        statuses ([103]), seconds (0.05), headers ({}): executed; one head without a body for each status, a
               packet each; after so many seconds the true answer
early          status (200), body ("{}"), headers ({}), seconds (0.05): executed; this answer at once and, after so many
               seconds, the true one behind it on the same connection, where no client may be asked to find it
drip           seconds (0.1), bytes (1): executed; the true answer, head included, so many bytes at a time with so many
               seconds in between, until the client leaves
foreign        parts (["applicationKey", "applicationKeyId", "groupMember"]), of (the email of a member; null: one of
               the same Group, made out of band as foreign-<n>@ the wanted domain), place ("instead"): for
               b2_create_group_member only; executed, and these parts of the answer are those of another account.
               "before" and "after": an array of both whole answers, the foreign one first or last
=============  =====================================================================================================
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import bisect
import contextlib
import copy
import dataclasses
import inspect
import ipaddress
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Dict

Json = Any
Fields = Dict[str, Any]

# ---------------------------------------------------------------------------------------------------------------------
# Facts about the service
# ---------------------------------------------------------------------------------------------------------------------

REGIONS = {"us-west": "004", "us-east": "005", "eu-central": "003", "ca-east": "006"}  # region: its cluster
CAPABILITIES = (
    "listKeys", "writeKeys", "deleteKeys", "listAllBucketNames", "listBuckets", "readBuckets", "writeBuckets",
    "deleteBuckets",
    "readBucketRetentions", "writeBucketRetentions", "readBucketEncryption", "writeBucketEncryption",
    "readBucketLogging",
    "writeBucketLogging", "readBucketNotifications", "writeBucketNotifications", "readBucketReplications",
    "writeBucketReplications", "listFiles", "readFiles", "shareFiles", "writeFiles", "deleteFiles", "bypassGovernance",
    "readFileLegalHolds", "writeFileLegalHolds", "readFileRetentions", "writeFileRetentions",
    "readBucketLifecycleRules", "writeBucketLifecycleRules",
)  # fmt: skip
CREATE_PARTS = ("applicationKey", "applicationKeyId", "groupMember")  # of the answer to b2_create_group_member
ARRAYS_WHERE_MIXED = ("b2_create_group_member", "b2_list_group_members")
KEY_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
KEY_NAME = re.compile(r"[A-Za-z0-9-]{1,100}")
API_PATH = re.compile(r"/b2api/(v3|v4)/(\w+)")


class ApiFault(Exception):
    """An error as the API answers it."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def body(self) -> Json:
        return {"status": self.status, "code": self.code, "message": self.message}


def bad_request(message: str) -> ApiFault:
    return ApiFault(400, "bad_request", message)


# ---------------------------------------------------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Settings:
    """What can be changed while the stand-in runs. The defaults are a well-behaved service."""

    admin_key_id: str = "0a1b2c3d4e5f"  # the master key's id is the admin's account id
    admin_key: str = "K004StandInMasterKeyNotASecret0"
    admin_app_key_id: str = "0040a1b2c3d4e5f0000000001"  # an ordinary key of the admin: no Partner API with it
    admin_app_key: str = "K004StandInAppKeyNotTheMaster00"
    groups_enabled: bool = True  # false: the account is not enabled for the Partner API
    groups_api_url: str | None = None  # another address to hand out, for hostile tests
    api_url: str | None = None  # the same for storageApi.apiUrl
    token_uses: int | None = None  # tokens handed out from now on expire after so many uses
    token_seconds: float | None = None  # … or after so long
    wrong_key_code: str = "unauthorized"  # or "bad_auth_token": how authorize says that key id or key are wrong
    shape: str = "object"  # or "array": every 2xx body is a one-element array; "mixed": those of ARRAYS_WHERE_MIXED
    case_sensitive_order: bool = False  # how members are ordered, and startEmail compared
    quirk_last_page: bool = False  # the last page names its own last member as nextEmail
    lag_seconds: float = 0.0  # a new member is listed only after so long
    default_region: str = "us-west"
    refused_domains: list[str] = field(default_factory=list)  # creating there is answered 420 method_failure
    max_members: int | None = None  # per Group
    no_phone: bool = False  # the admin has no SMS phone: nothing can be created
    eject_frees_address: bool = True  # whether the old address is free once an eject gave the account another one
    delete_missing_key_ok: bool = True  # false: deleting a missing key is 400, as in older reports
    creates_per_second: float | None = None  # beyond it: 429 with Retry-After 1
    latency_ms: float = 0.0  # half before the operation takes effect, half after
    latency_ms_by_operation: dict[str, float] = field(default_factory=dict)
    seed: int = 0  # of the faults with a probability; they start over when rules are set
    log_size: int = 10000

    @classmethod
    def of(cls, changes: Mapping[str, Json]) -> Settings:
        return cls().changed(changes)

    def changed(self, changes: Mapping[str, Json]) -> Settings:
        unknown = sorted(set(changes) - {known.name for known in dataclasses.fields(self)})
        if unknown:
            raise bad_request(f"no such setting: {', '.join(unknown)}")
        changed = dataclasses.replace(self, **changes)
        if changed.shape not in ("object", "array", "mixed"):
            raise bad_request("shape is object, array or mixed")
        if changed.wrong_key_code not in ("unauthorized", "bad_auth_token"):
            raise bad_request("wrong_key_code is unauthorized or bad_auth_token")
        return changed


@dataclass
class Account:
    id: str
    email: str
    region: str
    group_id: str | None = None
    listed_from: float = 0.0  # monotonic; before it, the member exists but is in no list


@dataclass
class Group:
    id: str
    name: str
    sso_domain: str | None = None
    order: list[tuple[str, str]] = field(default_factory=list)  # (email as it sorts, account id), kept sorted


@dataclass
class Key:
    id: str
    secret: str
    account_id: str
    name: str
    capabilities: Sequence[str] = CAPABILITIES
    bucket_ids: list[str] | None = None
    name_prefix: str | None = None
    expires_ms: int | None = None
    made_at: str = "v3"  # the version of the API


@dataclass
class Token:
    account_id: str
    capabilities: Sequence[str]
    bucket_ids: list[str] | None
    master: bool
    uses_left: int | None
    expires_at: float | None  # monotonic
    state: str = "valid"  # or "expired", "revoked"


@dataclass
class LedgerEntry:
    """A key that was handed out.

    ``delivered``: the whole answer, key included, went into the socket. An answer behind an early one does not count.
    """

    at: float
    operation: str
    email: str
    account_id: str
    group_id: str | None
    key_id: str
    key: str
    delivered: bool = False
    out_of_band: bool = False


@dataclass
class Call:
    """One request to the API, on its way through."""

    operation: str
    version: str
    method: str
    fields: Fields
    defect: ApiFault | None  # why the fields could not be read; told only to whoever is authorized
    authorization: str
    user_agent: str
    email: str | None = None  # the address it is about
    account_id: str = ""  # whose token it carries, once that is checked
    entries: list[LedgerEntry] = field(default_factory=list)  # keys that the answer may hold
    fault: str | None = None
    executed: bool = False
    status: int | None = None  # as answered; None: the line was cut


@dataclass
class Answer:
    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


class Partner:
    """Groups, accounts, keys and tokens, and the operations on them. No input or output, no waiting."""

    def __init__(self, settings: Settings | None = None, groups: Sequence[str | Fields] = ()) -> None:
        self.url = ""  # where it is served; the server fills it in
        self.creates_in_flight = 0  # not for reset to touch: those that are under way still end
        self._first = (settings or Settings(), list(groups))
        self.reset()

    def reset(self) -> None:
        settings, groups = self._first
        self.settings = copy.deepcopy(settings)
        self.groups: dict[str, Group] = {}
        self.accounts: dict[str, Account] = {}
        self.addresses: dict[str, str] = {}  # lower-case email: account id
        self.taken: set[str] = set()
        self.keys: dict[str, Key] = {}
        self.tokens: dict[str, Token] = {}
        self.ledger: list[LedgerEntry] = []
        self.calls: Counter[str] = Counter()
        self.log: deque[Fields] = deque(maxlen=self.settings.log_size)
        self.faults = Faults([], self.settings.seed)
        self.creates_high_water = self.creates_in_flight
        self._keys_made = 0
        self._bucket = (self.settings.creates_per_second or 0.0, time.monotonic())  # creates left, as of when
        for group in groups:
            self.add_group(**group_spec(group))

    # -- the way through: begin, execute, end --

    def begin(self, call: Call) -> None:
        call.email = self._email_of(call)
        self.calls[call.operation] += 1
        if call.operation == "b2_create_group_member":
            self.creates_in_flight += 1
            self.creates_high_water = max(self.creates_high_water, self.creates_in_flight)

    def end(self, call: Call) -> None:
        if call.operation == "b2_create_group_member":
            self.creates_in_flight -= 1
        self.log.append({
            "at": time.time(), "operation": call.operation, "version": call.version, "method": call.method,
            "status": call.status,
            "email": call.email, "user_agent": call.user_agent, "fault": call.fault, "executed": call.executed,
        })  # fmt: skip

    def execute(self, call: Call) -> Answer:
        call.executed = True
        try:
            operation = OPERATIONS[call.operation]
            self._admit(call, operation)
            return Answer(200, operation.handler(self, call))
        except ApiFault as fault:
            return Answer(fault.status, fault.body(), fault.headers)

    def shaped(self, answer: Answer, operation: str) -> Json:
        shape = self.settings.shape
        in_array = shape == "array" or (shape == "mixed" and operation in ARRAYS_WHERE_MIXED)
        return [answer.body] if in_array and answer.status < 300 else answer.body

    def latency(self, operation: str) -> float:
        return self.settings.latency_ms_by_operation.get(operation, self.settings.latency_ms) / 1000

    def _admit(self, call: Call, operation: Operation) -> None:
        """The checks that every operation has in common, in the order in which the service makes them."""
        if not call.user_agent.strip():
            raise bad_request("a User-Agent is required")
        if operation.access != "basic":
            self._check_token(call, operation)
        if call.defect:
            raise call.defect
        call.fields = checked_fields(call.fields, operation.fields, from_query=call.method == "GET")
        for name in ("adminAccountId", "accountId"):
            if call.fields.get(name, call.account_id) != call.account_id:
                raise ApiFault(401, "unauthorized", f"{name} is not the account of the token")

    def _check_token(self, call: Call, operation: Operation) -> None:
        token = self.tokens.get(call.authorization)
        if token is None or token.state == "revoked":
            raise ApiFault(401, "bad_auth_token", "Invalid authorization token")
        if (token.expires_at is not None and time.monotonic() >= token.expires_at) or token.uses_left == 0:
            token.state = "expired"
        if token.state == "expired":
            raise ApiFault(401, "expired_auth_token", "Authorization token has expired")
        if token.uses_left is not None:
            token.uses_left -= 1
        if operation.access == "groups":
            if not token.master:
                raise ApiFault(401, "unauthorized", "the Partner API wants the Group admin's master application key")
            if not self.settings.groups_enabled:
                raise ApiFault(403, "access_denied", "the account is not enabled for the Partner API")
        elif operation.access not in token.capabilities:
            raise ApiFault(401, "unauthorized", f"the key lacks the capability {operation.access}")
        call.account_id = token.account_id

    def _email_of(self, call: Call) -> str | None:
        for name in ("memberEmail", "startEmail"):
            if isinstance(call.fields.get(name), str):
                return str(call.fields[name])
        if call.operation == "b2_authorize_account":
            key = self.keys.get((basic_credentials(call.authorization) or ("", ""))[0])
            account_id: Json = key.account_id if key else None
        elif call.operation == "b2_eject_group_member":
            account_id = call.fields.get("memberAccountId")
        else:
            token = self.tokens.get(call.authorization)
            account_id = token.account_id if token else None
        account = self.accounts.get(account_id) if isinstance(account_id, str) else None
        return account.email if account else None

    # -- authorize --

    def authorize(self, call: Call) -> Json:
        credentials = basic_credentials(call.authorization)
        if credentials is None:
            raise ApiFault(401, "bad_auth_token", "b2_authorize_account wants HTTP Basic")
        key, master = self._key(*credentials)
        if call.version == "v3" and key.made_at == "v4" and key.bucket_ids is not None:
            raise bad_request("a key that is restricted to buckets is not currently supported on API version number 3")
        settings = self.settings
        token = f"4_{key.id}_{secrets.token_urlsafe(24)}"
        expires = None if settings.token_seconds is None else time.monotonic() + settings.token_seconds
        uses = settings.token_uses
        self.tokens[token] = Token(key.account_id, key.capabilities, key.bucket_ids, master, uses, expires)
        account = self.accounts.get(key.account_id)
        region = account.region if account else settings.default_region
        storage: Fields = {
            "absoluteMinimumPartSize": 5000000,
            "apiUrl": settings.api_url or self.url,
            "downloadUrl": self.url,
            "infoType": "storageApi",
            "recommendedPartSize": 100000000,
            "s3ApiUrl": f"https://{s3_endpoint(region)}",
        }
        groups: Fields = {"groupsApiUrl": settings.groups_api_url or self.url, "infoType": "groupsApi"}
        answer: Fields = {"accountId": key.account_id, "apiInfo": {"storageApi": storage}, "authorizationToken": token,
                          "applicationKeyExpirationTimestamp": key.expires_ms}  # fmt: skip
        if call.version == "v3":
            bucket = key.bucket_ids[0] if key.bucket_ids else None
            storage.update(
                bucketId=bucket, bucketName=None, namePrefix=key.name_prefix, capabilities=list(key.capabilities)
            )
            groups["capabilities"] = ["all"]
        else:
            answer["clusterNum"] = int(REGIONS[region])
            buckets_v4 = (
                None if key.bucket_ids is None else [{"id": bucket_id, "name": None} for bucket_id in key.bucket_ids]
            )
            storage["allowed"] = {
                "buckets": buckets_v4,
                "capabilities": list(key.capabilities),
                "namePrefix": key.name_prefix,
            }
        if master and settings.groups_enabled:
            answer["apiInfo"]["groupsApi"] = groups
        return answer

    def _key(self, key_id: str, secret: str) -> tuple[Key, bool]:
        settings = self.settings
        if (key_id, secret) == (settings.admin_key_id, settings.admin_key):
            return Key(key_id, secret, settings.admin_key_id, "master"), True
        if (key_id, secret) == (settings.admin_app_key_id, settings.admin_app_key):
            return Key(key_id, secret, settings.admin_key_id, "ordinary"), False
        key = self.keys.get(key_id)
        if key is None or key.secret != secret or (key.expires_ms is not None and key.expires_ms <= time.time() * 1000):
            raise ApiFault(401, settings.wrong_key_code, "invalid application key id or application key")
        return key, False

    # -- the Partner API --

    def list_groups(self, call: Call) -> Json:
        fields = call.fields
        count = in_range(fields.get("maxGroupCount", 100), "maxGroupCount", 100)
        start, name = fields.get("startGroupId", ""), fields.get("groupName")
        found = sorted(group.id for group in self.groups.values() if group.id >= start and name in (None, group.name))
        return {
            "accountId": call.account_id,
            "groups": [self._group_row(self.groups[group_id]) for group_id in found[:count]],
            "nextGroupId": found[count] if len(found) > count else None,
        }

    def list_members(self, call: Call) -> Json:
        fields, group = call.fields, self._group(call.fields["groupId"])
        # Zero means the default: so the reference.
        count = in_range(fields.get("maxMemberCount", 100) or 100, "maxMemberCount", 1000)
        start, now = self._sort_key(fields.get("startEmail", "")), time.monotonic()
        page: list[Account] = []
        next_email = None
        for position in range(bisect.bisect_left(group.order, (start, "")), len(group.order)):
            account = self.accounts[group.order[position][1]]
            if account.listed_from > now:
                continue
            if len(page) == count:
                next_email = account.email
                break
            page.append(account)
        if next_email is None and page and self.settings.quirk_last_page:
            next_email = page[-1].email
        rows = [{**self._member(account, group), "b2Stats": b2_stats(account.email)} for account in page]
        return {"groupId": group.id, "groupName": group.name, "groupMembers": rows, "nextEmail": next_email}

    def create_member(self, call: Call) -> Json:
        self._spend_create()
        group, address = self._group(call.fields["groupId"]), call.fields["memberEmail"]
        region = call.fields.get("region", self.settings.default_region)
        domain = address.rpartition("@")[2].lower()
        if self.settings.no_phone:
            raise ApiFault(401, "invalid_sms_phone", "the Group admin needs a valid SMS phone")
        self._check_address(address)
        if group.sso_domain and domain != group.sso_domain.lower():
            raise ApiFault(401, "invalid_email", f"members of this Group are of the domain {group.sso_domain}")
        if region not in REGIONS:
            raise ApiFault(401, "invalid_region", f"no such region: {region}")
        if self.settings.max_members is not None and len(group.order) >= self.settings.max_members:
            raise ApiFault(401, "too_many_members", "the Group is full")
        if domain in {refused.lower() for refused in self.settings.refused_domains}:
            raise ApiFault(420, "method_failure", "the account could not be created")
        account, key = self._new_member(group, address, region, self.settings.lag_seconds)
        call.entries.append(self._enter("b2_create_group_member", account, key))
        return {"applicationKey": key.secret, "applicationKeyId": key.id, "groupMember": self._member(account, group)}

    def eject_member(self, call: Call) -> Json:
        group, account = self._group(call.fields["groupId"]), self.accounts.get(call.fields["memberAccountId"])
        if account is None or account.group_id != group.id:
            raise ApiFault(401, "invalid_member_account_id", "no such member in this Group")
        return self._leave(account, group, call.fields.get("email"))

    def _spend_create(self) -> None:
        rate = self.settings.creates_per_second
        if rate is None:
            return
        left, since = self._bucket
        now = time.monotonic()
        left = min(max(rate, 1.0), left + (now - since) * rate)
        self._bucket = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise ApiFault(429, "too_many_requests", "too many accounts at once", {"Retry-After": "1"})

    def _check_address(self, address: str) -> None:
        if not EMAIL.fullmatch(address) or len(address) > 254:
            raise ApiFault(401, "invalid_email", f"not an email address: {address}")
        if address.lower() in self.addresses or address.lower() in self.taken:
            raise ApiFault(401, "invalid_email", f"cannot be used: {address}")

    def _group(self, group_id: str) -> Group:
        group = self.groups.get(group_id)
        if group is None:
            raise ApiFault(401, "invalid_group_id", f"no such Group: {group_id}")
        return group

    def _group_row(self, group: Group) -> Fields:
        return {
            "accountStandingDetails": {"state": "B2_GOOD_STANDING"},
            "b2Stats": b2_stats(group.id),
            "groupId": group.id,
            "groupName": group.name,
            "groupProducts": ["STORAGE"],
            "groupStats": {
                "createdTimestamp": "d20240102_m030405",
                "groupStatsAsOfTimestamp": "d20250115_m083000",
                "memberCount": len(group.order),
            },
        }

    @staticmethod
    def _member(account: Account, group: Group) -> Fields:
        return {"accountId": account.id, "email": account.email, "groupId": group.id, "groupName": group.name,
                "region": account.region, "s3Endpoint": s3_endpoint(account.region)}  # fmt: skip

    def _sort_key(self, address: str) -> str:
        return address if self.settings.case_sensitive_order else address.lower()

    # -- a member's own keys --

    def create_key(self, call: Call) -> Json:
        fields, version_field = call.fields, "bucketId" if call.version == "v3" else "bucketIds"
        if {"bucketId", "bucketIds"} & set(fields) - {version_field}:
            raise bad_request(f"{call.version} has {version_field}")
        unknown = sorted(set(fields["capabilities"]) - set(CAPABILITIES))
        if unknown or not fields["capabilities"]:
            raise bad_request(f"bad capabilities: {', '.join(unknown) or 'none at all'}")
        if not KEY_NAME.fullmatch(fields["keyName"]):
            raise bad_request("keyName: 1 to 100 of letters, digits and -")
        if fields.get("namePrefix") == "":
            raise ApiFault(500, "internal_error", "internal error")  # seen on the real service
        seconds = fields.get("validDurationInSeconds")
        if seconds is not None and not 1 <= seconds <= 86400000:
            raise bad_request("validDurationInSeconds is out of range")
        buckets = [fields["bucketId"]] if "bucketId" in fields else fields.get("bucketIds")
        account = self.accounts.get(call.account_id)
        key = self._new_key(
            call.account_id, account.region if account else self.settings.default_region, fields["keyName"]
        )
        key.capabilities, key.bucket_ids, key.name_prefix = fields["capabilities"], buckets, fields.get("namePrefix")
        key.expires_ms = None if seconds is None else int((time.time() + seconds) * 1000)
        key.made_at = call.version
        if account:
            call.entries.append(self._enter("b2_create_key", account, key))
        return {**self._key_row(key, call.version), "applicationKey": key.secret}

    def list_keys(self, call: Call) -> Json:
        fields = call.fields
        if fields.get("startApplicationKeyId") == "":
            raise bad_request("startApplicationKeyId is empty")
        count = in_range(fields.get("maxKeyCount", 100), "maxKeyCount", 10000)
        start = fields.get("startApplicationKeyId", "")
        found = sorted(key.id for key in self.keys.values() if key.account_id == call.account_id and key.id >= start)
        return {
            "keys": [self._key_row(self.keys[key_id], call.version) for key_id in found[:count]],
            "nextApplicationKeyId": found[count] if len(found) > count else None,
        }

    def delete_key(self, call: Call) -> Json:
        key = self.keys.get(call.fields["applicationKeyId"])
        if key is not None and key.account_id == call.account_id:
            del self.keys[key.id]
            return self._key_row(key, call.version)
        if not self.settings.delete_missing_key_ok:
            raise bad_request("no such application key")
        return self._key_row(Key(call.fields["applicationKeyId"], "", call.account_id, ""), call.version)

    def list_buckets(self, call: Call) -> Json:
        """Return no buckets. Clients ask for the names of the buckets that a key is restricted to."""
        named = call.fields.get("bucketId") or call.fields.get("bucketName")
        if self.tokens[call.authorization].bucket_ids is not None and not named:
            raise ApiFault(401, "unauthorized", "a key that is restricted to buckets has to name one")
        return {"buckets": []}

    @staticmethod
    def _key_row(key: Key, version: str) -> Fields:
        buckets: Fields = (
            {"bucketIds": key.bucket_ids}
            if version == "v4"
            else {"bucketId": key.bucket_ids[0] if key.bucket_ids else None}
        )
        return {"accountId": key.account_id, "applicationKeyId": key.id, "capabilities": list(key.capabilities),
                "keyName": key.name, "expirationTimestamp": key.expires_ms,
                "namePrefix": key.name_prefix, "options": ["s3"], **buckets}  # fmt: skip

    # -- what happens on the web site rather than through the API --

    def add_group(self, name: str, id: str | None = None, sso_domain: str | None = None, members: int = 0) -> Group:
        group = Group(id or next(str(n) for n in range(100001, 10**9) if str(n) not in self.groups), name, sso_domain)
        if group.id in self.groups:
            raise bad_request(f"there is a Group {group.id} already")
        self.groups[group.id] = group
        domain = sso_domain or f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'group'}.example"
        number = 0
        while len(group.order) < members:
            number += 1
            address = f"member-{number:05d}@{domain}"
            if address not in self.addresses:
                self._new_member(group, address, tuple(REGIONS)[number % len(REGIONS)])
        return group

    def remove_group(self, group_id: str) -> None:
        for _unused, account_id in self._group(group_id).order:
            self.accounts[account_id].group_id = None
        del self.groups[group_id]

    def add_member(self, group: str, email: str, region: str | None = None) -> Fields:
        """Somebody else creates a member: the client under test sees it only in lists."""
        found = self.groups.get(group) or next((known for known in self.groups.values() if known.name == group), None)
        if found is None:
            raise bad_request(f"no such Group: {group}")
        self._check_address(email)
        account, key = self._new_member(found, email, region or self.settings.default_region)
        self._enter("out_of_band", account, key).out_of_band = True
        return {"applicationKey": key.secret, "applicationKeyId": key.id, **self._member(account, found)}

    def remove_member(self, member: str, email: str | None = None) -> Fields:
        account = self.member_named(member)
        return self._leave(account, self.groups[str(account.group_id)], email)

    def foreign_member(self, call: Call, email: str | None) -> tuple[Fields, LedgerEntry]:
        """What the create of another account answered, and the ledger's entry of that.

        ``email`` is that of a member; None makes a new member of the Group that the call is about.
        """
        if email is None:
            domain = call.fields["memberEmail"].rpartition("@")[2]
            named = (f"foreign-{number}@{domain}" for number in range(1, 10**9))
            email = next(name for name in named if not {name.lower()} & (self.addresses.keys() | self.taken))
            self.add_member(call.fields["groupId"], email)
        account = self.member_named(email)
        of_account = (entry for entry in self.ledger if entry.account_id == account.id)
        entry = next((entry for entry in of_account if entry.operation != "b2_create_key"), None)
        if entry is None:  # a member from the start, whose key nobody has had so far
            key = next(key for key in self.keys.values() if key.account_id == account.id)
            entry = self._enter("out_of_band", account, key)
            entry.out_of_band = True
        member = self._member(account, self.groups[str(account.group_id)])
        return dict(zip(CREATE_PARTS, (entry.key, entry.key_id, member))), entry

    def change_settings(self, changes: Mapping[str, Json]) -> None:
        self.settings = self.settings.changed(changes)
        if "case_sensitive_order" in changes:
            for group in self.groups.values():
                group.order = sorted(
                    (self._sort_key(self.accounts[account_id].email), account_id) for _key, account_id in group.order
                )
        if "log_size" in changes:
            self.log = deque(self.log, maxlen=self.settings.log_size)
        if "creates_per_second" in changes:
            self._bucket = (self.settings.creates_per_second or 0.0, time.monotonic())

    def strike_tokens(self, state: str) -> int:
        for token in self.tokens.values():
            token.state = state
        return len(self.tokens)

    def expire_token(self, value: str) -> None:
        token = self.tokens.get(value)
        if token:
            token.state = "expired"

    # -- the parts these are made of --

    def member_named(self, member: str) -> Account:
        """``member``: an email address or an account id."""
        account = self.accounts.get(self.addresses.get(member.lower(), member))
        if account is None or account.group_id is None:
            raise bad_request(f"no such member: {member}")
        return account

    def _new_member(self, group: Group, address: str, region: str, lag: float = 0.0) -> tuple[Account, Key]:
        account_id = secrets.token_hex(6)
        while account_id in self.accounts or account_id == self.settings.admin_key_id:
            account_id = secrets.token_hex(6)
        account = Account(account_id, address, region, group.id, time.monotonic() + lag if lag else 0.0)
        self.accounts[account.id] = account
        self.addresses[address.lower()] = account.id
        bisect.insort(group.order, (self._sort_key(address), account.id))
        return account, self._new_key(account.id, region, "member")

    def _new_key(self, account_id: str, region: str, name: str) -> Key:
        self._keys_made += 1
        cluster = REGIONS.get(region, "000")
        secret = "".join([KEY_ALPHABET[byte % len(KEY_ALPHABET)] for byte in secrets.token_bytes(27)])
        key = Key(f"{cluster}{account_id}{self._keys_made:010d}", f"K{cluster}{secret}", account_id, name)
        self.keys[key.id] = key
        return key

    def _enter(self, operation: str, account: Account, key: Key) -> LedgerEntry:
        entry = LedgerEntry(time.time(), operation, account.email, account.id, account.group_id, key.id, key.secret)
        self.ledger.append(entry)
        return entry

    def _leave(self, account: Account, group: Group, new_address: str | None) -> Fields:
        if new_address is not None:
            self._check_address(new_address)
        del group.order[bisect.bisect_left(group.order, (self._sort_key(account.email), account.id))]
        account.group_id = None
        if new_address is not None:
            del self.addresses[account.email.lower()]
            if not self.settings.eject_frees_address:
                self.taken.add(account.email.lower())
            account.email = new_address
            self.addresses[new_address.lower()] = account.id
        member = self._member(account, group)
        del member["s3Endpoint"]
        return member


def group_spec(group: str | Fields) -> Fields:
    """``"resale:5000"`` is the Group resale with 5000 members in it."""
    if not isinstance(group, str):
        return group
    name, colon, count = group.rpartition(":")
    return {"name": name, "members": int(count)} if colon and count.isdigit() else {"name": group}


def s3_endpoint(region: str) -> str:
    return f"s3.{region}-{REGIONS.get(region, '000')}.backblazeb2.com"


def b2_stats(of: str) -> Fields:
    """Numbers that are the same on every run, in all the forms in which the service has been seen to send them."""
    number = zlib.crc32(of.encode(errors="surrogatepass"))
    day = 1 + number % 28
    counts: list[int | str] = [0, 0, 0] if number % 3 == 0 else [number * 1000, number % 100003, number % 101]
    if number % 2:
        counts = [str(count) for count in counts]
    stamp = (None, f"d202501{day:02d}_m083000", f"2025-01-{day:02d}T08:30:00Z")[number // 28 % 3]
    return dict(
        zip(("b2BytesStoredCount", "b2FilesStoredCount", "bucketCount", "b2StatsAsOfTimestamp"), [*counts, stamp])
    )


def in_range(value: int, name: str, highest: int) -> int:
    if not 1 <= value <= highest:
        raise ApiFault(401, "out_of_range", f"{name} is 1 to {highest}")
    return value


def basic_credentials(authorization: str) -> tuple[str, str] | None:
    scheme, _space, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        key_id, colon, key = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (key_id, key) if colon else None


def checked_fields(fields: Fields, known: Mapping[str, tuple[type, bool]], from_query: bool) -> Fields:
    """As strict as can be: a field that the service does not know, or of another type, is the client's mistake.

    In JSON, null is as good as leaving an optional field out.
    """
    fields = {name: given for name, given in fields.items() if given is not None or name not in known or known[name][1]}
    unknown = sorted(set(fields) - set(known))
    missing = sorted(name for name, (_type, required) in known.items() if required and name not in fields)
    if unknown or missing:
        raise bad_request(f"unknown fields: {unknown}; missing fields: {missing}")
    checked = dict(fields)
    for name, given in fields.items():
        wanted = known[name][0]
        value = checked[name] = (
            int(given) if from_query and wanted is int and re.fullmatch(r"-?\d{1,18}", given) else given
        )
        texts = value if wanted is list and isinstance(value, list) else []
        # A bool is an int to Python, not to JSON.
        fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
        if not fits or not all(isinstance(text, str) for text in texts):
            raise bad_request(f"{name} is not of the type {wanted.__name__}")
    return checked


@dataclass(frozen=True)
class Operation:
    handler: Callable[[Partner, Call], Json]
    methods: tuple[str, ...]
    access: str  # "basic", "groups", or the capability that the key must have
    fields: Mapping[str, tuple[type, bool]]  # name: type, required


READ, WRITE = ("GET", "POST"), ("POST",)
OPERATIONS: dict[str, Operation] = {
    "b2_authorize_account": Operation(Partner.authorize, READ, "basic", {}),
    "b2_list_groups": Operation(Partner.list_groups, READ, "groups", {
        "adminAccountId": (str, True), "groupName": (str, False), "startGroupId": (str, False),
        "maxGroupCount": (int, False)}),
    "b2_list_group_members": Operation(Partner.list_members, READ, "groups", {
        "adminAccountId": (str, True), "groupId": (str, True), "startEmail": (str, False),
        "maxMemberCount": (int, False)}),
    "b2_create_group_member": Operation(Partner.create_member, WRITE, "groups", {
        "adminAccountId": (str, True), "groupId": (str, True), "memberEmail": (str, True), "region": (str, False)}),
    "b2_eject_group_member": Operation(Partner.eject_member, WRITE, "groups", {
        "adminAccountId": (str, True), "groupId": (str, True), "memberAccountId": (str, True), "email": (str, False)}),
    "b2_create_key": Operation(Partner.create_key, WRITE, "writeKeys", {
        "accountId": (str, True), "capabilities": (list, True), "keyName": (str, True),
        "validDurationInSeconds": (int, False),
        "bucketId": (str, False), "bucketIds": (list, False), "namePrefix": (str, False)}),
    "b2_list_keys": Operation(Partner.list_keys, READ, "listKeys", {
        "accountId": (str, True), "maxKeyCount": (int, False), "startApplicationKeyId": (str, False)}),
    "b2_delete_key": Operation(Partner.delete_key, WRITE, "deleteKeys", {"applicationKeyId": (str, True)}),
    "b2_list_buckets": Operation(Partner.list_buckets, READ, "listBuckets", {
        "accountId": (str, True), "bucketId": (str, False), "bucketName": (str, False), "bucketTypes": (list, False)}),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Fault rules: which request is hit. What then happens to it is in the section after next.
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Rule:
    operation: str
    action: Fields
    email: str | None = None
    after: int = 0
    times: int | None = 1
    probability: float | None = None
    matches: int = 0
    hits: int = 0

    @classmethod
    def of(cls, described: Fields) -> Rule:
        """Refuse a rule that would never fire, or that would fail: a test must not pass because of it."""
        try:
            # What "faults" shows may be put back: its counts are not taken over.
            rule = cls(**{name: value for name, value in described.items() if name not in ("matches", "hits")})
            arguments = dict(rule.action)
            kind = arguments.pop("kind")
            inspect.signature(FAULTS[kind]).bind(None, **arguments)
            if kind in CHECKS:
                CHECKS[kind](rule, **arguments)
        except (TypeError, KeyError, ValueError) as error:
            raise bad_request(f"bad rule {described}: {error!r}") from error
        if rule.operation != "*" and rule.operation not in OPERATIONS:
            raise bad_request(f"no such operation: {rule.operation}")
        return rule

    def fires(self, call: Call, chance: random.Random) -> bool:
        if self.operation not in ("*", call.operation) or (self.times is not None and self.hits >= self.times):
            return False
        if self.email is not None and self.email.lower() != (call.email or "").lower():
            return False
        self.matches += 1
        if self.matches <= self.after or (self.probability is not None and chance.random() >= self.probability):
            return False
        self.hits += 1
        return True


class Faults:
    def __init__(self, rules: Iterable[Fields], seed: int) -> None:
        self.rules = [Rule.of(described) for described in rules]
        self._chance = random.Random(seed)

    def pick(self, call: Call) -> Fields | None:
        return next((rule.action for rule in self.rules if rule.fires(call, self._chance)), None)

    def left(self) -> list[Fields]:
        return [dataclasses.asdict(rule) for rule in self.rules]


# ---------------------------------------------------------------------------------------------------------------------
# HTTP
# ---------------------------------------------------------------------------------------------------------------------

MAX_HEAD, MAX_BODY = 64 * 1024, 16 * 1024 * 1024
REASONS = {100: "Continue", 102: "Processing", 103: "Early Hints", 200: "OK", 204: "No Content", 302: "Found",
           307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
           405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required", 413: "Content Too Large",
           420: "Method Failure", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
           500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
           504: "Gateway Timeout"}  # fmt: skip
JSON_TYPE = "application/json;charset=utf-8"


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


def to_json(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def response_head(status: int, headers: Mapping[str, str]) -> bytes:
    """With the date, unless the headers have one; an interim response (1xx) has only what it is given."""
    if status >= 200 and "date" not in map(str.lower, headers):
        headers = {"Date": formatdate(usegmt=True), **headers}
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def full_head(status: int, payload: bytes, headers: Mapping[str, str]) -> bytes:
    return response_head(status, {"Content-Type": JSON_TYPE, "Content-Length": str(len(payload)), **headers})


class Connection(asyncio.Protocol):
    """One client. Requests are served one after the other; each response is one write, so one packet where it fits."""

    def __init__(self, partner: Partner, connections: set[Connection]) -> None:
        self._partner = partner
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._awaited = 0  # no request can be complete before there are so many bytes
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport  # from connection_made on
        self.gone: asyncio.Future[None] = self._loop.create_future()

    # -- called by the event loop, which sets TCP_NODELAY itself --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)  # so that a write is over when the kernel has all of it
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.resume_writing()
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    # -- for those who answer --

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    async def write(self, data: bytes) -> bool:
        """True if all of it went into the socket."""
        if self.closing:
            return False
        self._transport.write(data)
        if self._drained:
            await self._drained
        return not self.closing

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """Away with it, and let the client see a reset rather than an orderly end."""
        connected = self._transport.get_extra_info("socket")
        if connected is not None and not self.closing:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # on, zero seconds
        self._transport.abort()

    async def linger(self, seconds: float | None) -> None:
        """Wait so long, or until the client is gone."""
        await asyncio.wait([self.gone], timeout=seconds)

    # -- requests --

    def _next(self) -> None:
        if self._task or self.closing:
            return
        try:
            request = self._parse()
        except ApiFault as fault:
            body = to_json(fault.body())
            self._transport.write(
                response_head(fault.status, {"Content-Length": str(len(body)), "Connection": "close"}) + body
            )
            self.close()
            return
        if request:
            self._task = self._loop.create_task(self._serve(request))

    def _parse(self) -> Request | None:
        buffer = self._buffer
        if len(buffer) < self._awaited:
            return None
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD:
                raise ApiFault(431, "bad_request", "the head is too long")
            return None
        first, *lines = buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _colon, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = headers.get("content-length", "0")
        try:
            method, target, protocol = first.split(" ")
        except ValueError:
            raise bad_request("not a request line") from None
        if "transfer-encoding" in headers or not length.isdigit():
            raise ApiFault(411, "bad_request", "a body needs a Content-Length")
        if int(length) > MAX_BODY:
            raise ApiFault(413, "bad_request", "the body is too long")
        body_at, self._awaited = end + 4, end + 4 + int(length)
        if len(buffer) < self._awaited:
            return None
        body = bytes(buffer[body_at : self._awaited])
        del buffer[: self._awaited]
        self._awaited = 0
        path, _mark, query = target.partition("?")
        keep_alive = protocol == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Request(method, path, query, headers, body, keep_alive)

    async def _serve(self, request: Request) -> None:
        try:
            if request.path.startswith("/_standin/"):
                await self._serve_control(request)
            else:
                await self._serve_api(request)
            if not request.keep_alive:
                self.close()
        except Exception:  # noqa: BLE001 - a mistake of the stand-in must not pass for a fault that somebody asked for
            traceback.print_exc()
            await self._send_json(
                500, {"status": 500, "code": "standin_broken", "message": traceback.format_exc(limit=-1)}
            )
            self.close()
        finally:
            self._task = None
        self._next()

    async def _send_json(self, status: int, body: Json) -> None:
        payload = to_json(body)
        await self.write(
            response_head(status, {"Content-Type": JSON_TYPE, "Content-Length": str(len(payload))}) + payload
        )

    async def _serve_control(self, request: Request) -> None:
        try:
            payload = json.loads(request.body) if request.method == "POST" and request.body else None
            await self._send_json(200, control(self._partner, request.path[len("/_standin/") :], payload))
        except ApiFault as fault:
            await self._send_json(fault.status, fault.body())
        except ValueError as error:
            await self._send_json(400, bad_request(f"not JSON: {error}").body())

    async def _serve_api(self, request: Request) -> None:
        matched = API_PATH.fullmatch(request.path)
        if not matched or matched[2] not in OPERATIONS:
            self._partner.calls["unknown"] += 1
            await self._send_json(404, ApiFault(404, "not_found", f"no such path: {request.path}").body())
            return
        operation = OPERATIONS[matched[2]]
        if request.method not in operation.methods:
            self._partner.calls["unknown"] += 1
            await self._send_json(
                405, ApiFault(405, "method_not_allowed", f"use {' or '.join(operation.methods)}").body()
            )
            return
        await Exchange(self, self._partner, read_call(request, matched[1], matched[2])).run()


def read_call(request: Request, version: str, operation: str) -> Call:
    fields: Fields = {}
    defect = None
    try:
        if request.method == "GET":
            fields = dict(
                urllib.parse.parse_qsl(request.query, keep_blank_values=True, strict_parsing=bool(request.query))
            )
        elif request.body or OPERATIONS[operation].fields:
            fields = json.loads(request.body)
            if not isinstance(fields, dict) or request.query:
                fields, defect = {}, bad_request("a POST has its fields in a JSON object")
        elif request.query:  # a POST without a body, which is enough where there are no fields
            defect = bad_request("a POST has its fields in a JSON object")
    except ValueError as error:
        defect = bad_request(f"the request cannot be read: {error}")
    authorization, user_agent = request.headers.get("authorization", ""), request.headers.get("user-agent", "")
    return Call(operation, version, request.method, fields, defect, authorization, user_agent)


#: Seconds after which a call that waits looks whether its latency was changed.
LATENCY_STEP = 0.05


class Exchange:
    """A call and the way back to who made it."""

    def __init__(self, connection: Connection, partner: Partner, call: Call) -> None:
        self.connection = connection
        self.partner = partner
        self.call = call
        self.latency = partner.latency(call.operation)

    async def run(self) -> None:
        partner, call = self.partner, self.call
        partner.begin(call)
        try:
            action = partner.faults.pick(call)
            # A client that is killed while it waits dies on either side of the deed: half the latency is on each.
            await self._wait_half()
            if action is None:
                await self.answer(await self.execute())
            else:
                arguments = dict(action)
                call.fault = arguments.pop("kind")
                await FAULTS[call.fault](self, **arguments)
        finally:
            partner.end(call)

    async def _wait_half(self) -> None:
        """Wait for half the latency that there was when the call came; longer if it is raised, and no longer if it is
        set to nothing."""
        started = time.monotonic()
        while (now := self.partner.latency(self.call.operation)) and (
            left := max(self.latency, now) / 2 - (time.monotonic() - started)
        ) > 0:
            await asyncio.sleep(min(left, LATENCY_STEP))

    async def execute(self) -> Answer:
        answer = self.partner.execute(self.call)
        await self._wait_half()
        return answer

    async def execute_if(self, execute: bool | None, status: int) -> Answer:
        wanted = 200 <= status < 300 if execute is None else execute
        return await self.execute() if wanted else Answer(status, None)

    def payload(self, answer: Answer) -> bytes:
        return to_json(self.partner.shaped(answer, self.call.operation))

    async def answer(self, answer: Answer) -> None:
        await self.send(answer.status, self.payload(answer), answer.headers)

    async def send(self, status: int, payload: bytes, headers: Mapping[str, str], cut_at: int | None = None) -> None:
        written = await self.connection.write(full_head(status, payload, headers) + payload[:cut_at])
        if cut_at is not None:
            self.connection.close()
        self.sent(status, payload, written, whole=cut_at is None)

    def sent(self, status: int, payload: bytes, written: bool, whole: bool = True) -> None:
        """Note what became of an answer, and of the keys in it."""
        self.call.status = status if written else None
        for entry in self.call.entries:
            if written and whole and entry.key.encode() in payload:
                entry.delivered = True


# ---------------------------------------------------------------------------------------------------------------------
# Faults: what happens. The keyword arguments are the arguments of the kind.
# ---------------------------------------------------------------------------------------------------------------------


async def fault_error(exchange: Exchange, *, status: int, code: str = "internal_error", message: str = "injected",
                      headers: dict[str, str] | None = None, execute: bool | None = None) -> None:  # fmt: skip
    await exchange.execute_if(execute, status)
    await exchange.send(status, to_json(ApiFault(status, code, message).body()), headers or {})


async def fault_throttle(exchange: Exchange, *, retry_after: int | float | str | None = None,
                         retry_after_date: float | None = None) -> None:  # fmt: skip
    headers = {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if retry_after_date is not None:
        headers["Retry-After"] = formatdate(time.time() + retry_after_date, usegmt=True)
    await exchange.answer(Answer(429, ApiFault(429, "too_many_requests", "injected").body(), headers))


async def fault_cut_before(exchange: Exchange) -> None:
    exchange.connection.reset()


async def fault_cut_after(exchange: Exchange) -> None:
    await exchange.execute()
    exchange.connection.reset()


async def fault_hang_before(exchange: Exchange, *, seconds: float | None = None) -> None:
    await exchange.connection.linger(seconds)
    exchange.connection.close()


async def fault_hang_after(exchange: Exchange, *, seconds: float | None = None, answer: bool = True) -> None:
    late = await exchange.execute()
    await exchange.connection.linger(seconds)
    if answer:
        await exchange.answer(late)
    exchange.connection.close()


async def fault_truncate(exchange: Exchange, *, bytes: int | None = None, fraction: float = 0.5) -> None:
    answer = await exchange.execute()
    payload = exchange.payload(answer)
    await exchange.send(
        answer.status, payload, answer.headers, cut_at=int(len(payload) * fraction) if bytes is None else bytes
    )


async def fault_empty(exchange: Exchange, *, status: int = 200, execute: bool | None = None) -> None:
    await exchange.execute_if(execute, status)
    await exchange.send(status, b"", {})


async def fault_html(
    exchange: Exchange, *, status: int = 502, body: str | None = None, execute: bool | None = None
) -> None:
    await exchange.execute_if(execute, status)
    reason = REASONS.get(status, "Status")
    page = (
        f"<html><head><title>{reason}</title></head><body><h1>{status} {reason}</h1></body></html>"
        if body is None
        else body
    )
    await exchange.send(status, page.encode(), {"Content-Type": "text/html"})


async def fault_raw(exchange: Exchange, *, status: int = 200, body: str = "", headers: dict[str, str] | None = None,
                    execute: bool | None = None) -> None:  # fmt: skip
    true_body = exchange.payload(await exchange.execute_if(execute, status))
    await exchange.send(status, body.encode("utf-8", "surrogateescape").replace(b"@BODY@", true_body), headers or {})


async def fault_patch(exchange: Exchange, *, body: Json) -> None:
    answer = await exchange.execute()
    answer.body = merged(answer.body, body)
    await exchange.answer(answer)


async def fault_redirect(exchange: Exchange, *, location: str, status: int = 302) -> None:
    await exchange.send(status, b"", {"Location": location})


async def fault_delay(exchange: Exchange, *, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await exchange.answer(await exchange.execute())


async def fault_endless(exchange: Exchange, *, status: int = 200, limit_bytes: int = 256 * 1024 * 1024,
                        rate: float | None = None,
                        chunked: bool = True, headers: Mapping[str, str] | None = None,
                        execute: bool | None = None) -> None:  # fmt: skip
    await exchange.execute_if(execute, status)
    exchange.call.status = status
    connection = exchange.connection
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
    await connection.write(response_head(status, {"Content-Type": JSON_TYPE, **framing, **(headers or {})}))
    size = 65536 if rate is None else max(1, min(65536, int(rate / 10)))
    piece, sent = b'{"filler":"'[:size], 0  # the beginning of an object that never ends
    while sent < limit_bytes and piece:
        if not await connection.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece):
            return
        sent += len(piece)
        await asyncio.sleep(len(piece) / rate if rate else 0)
        piece = b"x" * min(size, limit_bytes - sent)
    if chunked:
        await connection.write(b"0\r\n\r\n")
    connection.close()


async def fault_expire_token(exchange: Exchange) -> None:
    exchange.partner.expire_token(exchange.call.authorization)
    await exchange.answer(Answer(401, ApiFault(401, "expired_auth_token", "Authorization token has expired").body()))


async def fault_interim(exchange: Exchange, *, statuses: Sequence[int] = (103,), seconds: float = 0.05,
                        headers: dict[str, str] | None = None) -> None:  # fmt: skip
    answer = await exchange.execute()
    for status in statuses:
        await exchange.connection.write(response_head(status, headers or {}))
    await exchange.connection.linger(seconds)
    await exchange.answer(answer)


async def fault_early(exchange: Exchange, *, status: int = 200, body: str = "{}", headers: dict[str, str] | None = None,
                      seconds: float = 0.05) -> None:  # fmt: skip
    answer = await exchange.execute()
    early = b"" if status == 204 else body.encode("utf-8", "surrogateescape")
    # A 204 has no body and says so by itself: a length, even of zero, is forbidden.
    head = response_head(status, headers or {}) if status == 204 else full_head(status, early, headers or {})
    exchange.call.status = status if await exchange.connection.write(head + early) else None
    await exchange.connection.linger(seconds)
    late = exchange.payload(answer)
    await exchange.connection.write(full_head(answer.status, late, answer.headers) + late)


async def fault_drip(exchange: Exchange, *, seconds: float = 0.1, bytes: int = 1) -> None:
    answer = await exchange.execute()
    payload = exchange.payload(answer)
    response = full_head(answer.status, payload, answer.headers) + payload
    written = True
    for at in range(0, len(response), bytes):
        if at:
            await exchange.connection.linger(seconds)
        written = await exchange.connection.write(response[at : at + bytes])
        if not written:
            break
    exchange.sent(answer.status, payload, written)


async def fault_foreign(exchange: Exchange, *, parts: Sequence[str] = CREATE_PARTS, of: str | None = None,
                        place: str = "instead") -> None:  # fmt: skip
    partner, call = exchange.partner, exchange.call
    if of is not None:
        partner.member_named(of)  # before anything is executed: a test that names nobody is wrong
    answer = await exchange.execute()
    if not call.entries:  # refused: there is no answer to put anything into
        await exchange.answer(answer)
        return
    foreign, entry = partner.foreign_member(call, of)
    call.entries.append(entry)
    if place == "instead":
        answer.body = {**answer.body, **{part: foreign[part] for part in parts}}
        await exchange.answer(answer)
    else:
        both = [foreign, answer.body] if place == "before" else [answer.body, foreign]
        await exchange.send(answer.status, to_json(both), answer.headers)


def check_drip(rule: Rule, seconds: float = 0.1, bytes: int = 1) -> None:
    if bytes < 1:
        raise ValueError("bytes is 1 or more")


def check_foreign(rule: Rule, place: str = "instead", parts: Sequence[str] = CREATE_PARTS, of: Json = None) -> None:
    if rule.operation != "b2_create_group_member":
        raise ValueError("only b2_create_group_member has an answer with a key of an account")
    if not parts or not set(parts) <= set(CREATE_PARTS) or place not in ("instead", "before", "after"):
        raise ValueError(f"parts are out of {CREATE_PARTS}, place is instead, before or after")
    if place != "instead" and set(parts) != set(CREATE_PARTS):
        raise ValueError("before and after have whole answers: all parts")


# What a signature cannot say of the arguments of a kind; each raises ValueError.
CHECKS: dict[str, Callable[..., None]] = {"drip": check_drip, "foreign": check_foreign}
FAULTS: dict[str, Callable[..., Awaitable[None]]] = {
    name[len("fault_") :]: handler for name, handler in list(globals().items()) if name.startswith("fault_")
}


def merged(target: Json, changes: Json) -> Json:
    """``changes`` merged into ``target`` as the fault kind "patch" has it; neither of them is altered."""
    if not isinstance(changes, dict):
        return None if changes == "@NULL@" else changes
    if isinstance(target, list):
        names = [str(position) if str(position) in changes else "*" for position in range(len(target))]
        return [merged(item, changes[name]) if name in changes else item for name, item in zip(names, target)]
    result = dict(target) if isinstance(target, dict) else {}
    for name, change in changes.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), change)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Control
# ---------------------------------------------------------------------------------------------------------------------


def control(partner: Partner, verb: str, payload: Json = None) -> Json:
    """Look (no payload) or change. The same from the same process, from another one, and in tests without a server."""
    handler = VERBS.get(verb)
    if handler is None:
        raise ApiFault(404, "not_found", f"no such verb: {verb}; there are {', '.join(VERBS)}")
    try:
        return handler(partner, payload)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise bad_request(f"bad payload for {verb}: {error!r}") from error


def state_verb(partner: Partner, payload: Json) -> Json:
    return {
        "url": partner.url,
        "settings": dataclasses.asdict(partner.settings),
        "groups": group_rows(partner),
        "members": member_rows(partner),
        "accounts": [account_row(partner, account) for account in partner.accounts.values()],
        "taken": sorted(partner.taken),
        "calls": dict(partner.calls),
        "tokens": Counter(token.state for token in partner.tokens.values()),
        "creates_in_flight": partner.creates_in_flight,
        "creates_high_water": partner.creates_high_water,
    }


def group_rows(partner: Partner) -> list[Fields]:
    return [{"id": group.id, "name": group.name, "sso_domain": group.sso_domain, "members": len(group.order)}
            for group in partner.groups.values()]  # fmt: skip


def group_ids(rows: Iterable[Fields]) -> dict[str, str]:
    """Group ids by name; of a name that is there twice, the first."""
    ids: dict[str, str] = {}
    for row in rows:
        ids.setdefault(row["name"], row["id"])
    return ids


def account_row(partner: Partner, account: Account) -> Fields:
    return {"account_id": account.id, "email": account.email, "region": account.region, "group_id": account.group_id}


def member_rows(partner: Partner) -> list[Fields]:
    return [account_row(partner, account) for account in partner.accounts.values() if account.group_id]


def ledger_verb(partner: Partner, payload: Json) -> Json:
    return [dataclasses.asdict(entry) for entry in partner.ledger]


def log_verb(partner: Partner, payload: Json) -> Json:
    return list(partner.log)


def settings_verb(partner: Partner, payload: Json) -> Json:
    partner.change_settings(payload or {})
    return dataclasses.asdict(partner.settings)


def faults_verb(partner: Partner, payload: Json) -> Json:
    if payload is not None:
        partner.faults = Faults(payload, partner.settings.seed)
    return partner.faults.left()


def groups_verb(partner: Partner, payload: Json) -> Json:
    if payload is None:
        return group_rows(partner)
    if "remove" in payload:
        partner.remove_group(payload["remove"])
        return {"removed": payload["remove"]}
    added = partner.add_group(**payload)
    return next(row for row in group_rows(partner) if row["id"] == added.id)


def members_verb(partner: Partner, payload: Json) -> Json:
    if payload is None:
        return member_rows(partner)
    if "remove" in payload:
        return partner.remove_member(payload["remove"], payload.get("email"))
    return partner.add_member(**payload)


def taken_verb(partner: Partner, payload: Json) -> Json:
    if payload is not None:
        partner.taken = {address.lower() for address in payload}
    return sorted(partner.taken)


def tokens_verb(partner: Partner, payload: Json) -> Json:
    if payload is None:
        return list(partner.tokens)
    return {"tokens": partner.strike_tokens({"expire": "expired", "revoke": "revoked"}[payload["action"]])}


def reset_verb(partner: Partner, payload: Json) -> Json:
    if payload is None:
        raise bad_request("POST {} to reset")
    partner.reset()
    return {"groups": group_rows(partner)}


VERBS: dict[str, Callable[[Partner, Json], Json]] = {
    "state": state_verb, "ledger": ledger_verb, "log": log_verb, "settings": settings_verb, "faults": faults_verb,
    "groups": groups_verb, "members": members_verb, "taken": taken_verb, "tokens": tokens_verb, "reset": reset_verb,
}  # fmt: skip


class Verbs:
    """The verbs as methods, however they travel."""

    def control(self, verb: str, payload: Json = None) -> Json:
        raise NotImplementedError

    def state(self) -> Fields:
        return dict(self.control("state"))

    def ledger(self) -> list[Fields]:
        return list(self.control("ledger"))

    def log(self) -> list[Fields]:
        return list(self.control("log"))

    def settings(self, **changes: Json) -> Fields:
        return dict(self.control("settings", changes or None))

    def faults(self, rules: Sequence[Fields] | None = None) -> list[Fields]:
        return list(self.control("faults", None if rules is None else list(rules)))

    def add_group(self, name: str, **options: Json) -> Fields:
        return dict(self.control("groups", {"name": name, **options}))

    def remove_group(self, group_id: str) -> None:
        self.control("groups", {"remove": group_id})

    def add_member(self, group: str, email: str, region: str | None = None) -> Fields:
        return dict(self.control("members", {"group": group, "email": email, "region": region}))

    def remove_member(self, member: str, email: str | None = None) -> Fields:
        return dict(self.control("members", {"remove": member, "email": email}))

    def taken(self, addresses: Sequence[str] | None = None) -> list[str]:
        return list(self.control("taken", None if addresses is None else list(addresses)))

    def tokens(self, action: str) -> int:
        return int(self.control("tokens", {"action": action})["tokens"])

    def tokens_handed_out(self) -> list[str]:
        return list(self.control("tokens"))

    def reset(self) -> None:
        self.control("reset", {})

    @property
    def groups(self) -> dict[str, str]:
        return group_ids(self.control("groups"))


class Control(Verbs):
    """A stand-in that runs in another process."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # Whatever proxy the environment names, it is not meant for a loopback address.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def control(self, verb: str, payload: Json = None) -> Json:
        data = None if payload is None else to_json(payload)
        request = urllib.request.Request(f"{self.url}/_standin/{verb}", data, {"Content-Type": "application/json"})
        try:
            with self._open(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"{verb}: {error.read().decode(errors='replace')}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Running it
# ---------------------------------------------------------------------------------------------------------------------


class Server:
    """The listening socket, on a loopback address and nowhere else: the keys and the control path are for this
    machine."""

    def __init__(self, partner: Partner, host: str = "127.0.0.1", port: int = 0) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address")
        self._partner = partner
        self._host, self._port = host, port
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Connection(self._partner, self._connections),
            self._host,
            self._port,
            backlog=1024,
            reuse_address=True,
        )
        self._listener = listener
        port = listener.sockets[0].getsockname()[1]
        self._partner.url = f"http://[{self._host}]:{port}" if ":" in self._host else f"http://{self._host}:{port}"

    async def stop(self) -> None:
        if self._listener is None:
            return
        # asyncio trips over a listener that is closed while it accepts: accept no more, let what came in come in,
        # close.
        for listening in self._listener.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for _turn in range(3):
            await asyncio.sleep(0)
        self._listener.close()
        self._listener = None
        for connection in list(self._connections):
            connection.reset()
        await asyncio.sleep(0)


class StandIn(Verbs):
    """The stand-in in a thread of this process."""

    def __init__(
        self, port: int = 0, groups: Sequence[str | Fields] = (), settings: Mapping[str, Json] | None = None
    ) -> None:
        self.partner = Partner(Settings.of(settings or {}), groups)
        self._server = Server(self.partner, port=port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event  # of the loop, from start on
        self._failure: OSError | None = None

    @property
    def url(self) -> str:
        return self.partner.url

    def start(self) -> StandIn:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), name="standin", daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure:
            raise self._failure
        return self

    def stop(self) -> None:
        if self._loop and self._thread:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._loop = self._thread = None

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def control(self, verb: str, payload: Json = None) -> Json:
        if self._loop is None:
            return control(self.partner, verb, payload)

        async def in_the_loop() -> Json:  # where the state lives, so that nothing else happens meanwhile
            return control(self.partner, verb, payload)

        return asyncio.run_coroutine_threadsafe(in_the_loop(), self._loop).result(60)

    async def _main(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        try:
            await self._server.start()
            self._loop = asyncio.get_running_loop()
        except OSError as error:
            self._failure = error
            return
        finally:
            ready.set()
        await self._stopping.wait()
        await self._server.stop()


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A stand-in for the Backblaze Partner API, on a loopback address.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--ready-file", help="gets the line that is also printed, once requests are served")
    parser.add_argument(
        "--group", action="append", default=[], metavar="NAME[:MEMBERS]", help="may be given more than once"
    )
    parser.add_argument("--latency-ms", type=float, help="of every request")
    parser.add_argument("--key-id", help="the master key's id, which is the admin's account id")
    parser.add_argument("--key", help="the master key")
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="any settings, as an object")
    parser.add_argument("--max-seconds", type=float, default=3600, help="stop after so long")
    parser.add_argument("--parent", type=int, metavar="PID", help="stop when that process is gone")
    return parser.parse_args(arguments)


def is_alive(pid: int, is_parent: bool) -> bool:
    if is_parent:  # a parent that is gone may linger as a zombie, which still takes signals
        return os.getppid() == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start_process(directory: str, *arguments: str, **options: Any) -> tuple[subprocess.Popen[bytes], Json]:
    """Run a stand-in as a process of its own; return it and the content of its ready file, once it serves requests.

    directory: for the ready file and for the output. options: more options of Popen.
    """
    ready = os.path.join(directory, "standin.json")
    command = [sys.executable, os.path.abspath(__file__), "--ready-file", ready, *arguments]
    with open(os.path.join(directory, "standin.log"), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    deadline = time.monotonic() + 30
    while not os.path.exists(ready):
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise RuntimeError("the stand-in did not start")
        time.sleep(0.02)
    with open(ready, encoding="utf-8") as file:
        return process, json.load(file)


def write_ready_file(path: str, line: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as ready:
        ready.write(line + "\n")
    os.replace(temporary, path)


async def serve(options: argparse.Namespace) -> None:
    named = {"latency_ms": options.latency_ms, "admin_key_id": options.key_id, "admin_key": options.key}
    settings = Settings.of({**options.settings, **{name: value for name, value in named.items() if value is not None}})
    partner = Partner(settings, options.group)
    server = Server(partner, options.host, options.port)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await server.start()
    line = json.dumps({"url": partner.url, "pid": os.getpid(), "groups": group_ids(group_rows(partner))})
    print(line, flush=True)
    if options.ready_file:
        write_ready_file(options.ready_file, line)
    watched, is_parent = options.parent, options.parent == os.getppid()
    deadline = time.monotonic() + options.max_seconds
    while not stopping.is_set() and time.monotonic() < deadline and (watched is None or is_alive(watched, is_parent)):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopping.wait(), min(1.0, max(0.0, deadline - time.monotonic())))
    await server.stop()


def main() -> int:
    try:
        asyncio.run(serve(parse_arguments()))
    except (ApiFault, OSError, TypeError, ValueError) as error:
        print(f"standin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
