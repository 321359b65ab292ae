# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Partner API: what is sent, what may be repeated, and how an unclear end is settled.

Reads and authorize are repeated. A create is repeated blindly only where it was certainly not executed (throttled, token
refused, connection never made); after anything else a look-up comes first. The address is unique at Backblaze, so a replay
can never make two accounts.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import itertools
import json
import queue
import random
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._answers import (
    Verdict,
    find_new_member,
    judge,
    parse,
    problem,
    refuses_token,
    retry_after,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    AnswerError,
    ApiError,
    B2Error,
    KeyLostError,
    MemberExistsError,
    NetworkError,
    OptionError,
    PatienceError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Group,
    Member,
    NewMember,
    as_text,
    folded,
    listed_group,
    listed_member,
    one,
    read_member,
)
from ansible_collections.community.backblaze.plugins.module_utils._pace import AT_ONCE, Pace, Turn
from ansible_collections.community.backblaze.plugins.module_utils._transport import Answer, TokenAuth, Transport, basic_auth, check_service_url

AUTHORIZE = "b2_authorize_account"
LIST_GROUPS = "b2_list_groups"
LIST_MEMBERS = "b2_list_group_members"
CREATE_MEMBER = "b2_create_group_member"
EJECT_MEMBER = "b2_eject_group_member"

# The most that the service gives in one page.
_GROUPS_PER_PAGE = 100
_MEMBERS_PER_PAGE = 1000
# A listing that never ends is not a listing: a hundred times what the service documents as the most.
_MAX_PAGES = 500
# Backblaze recommends 1 s doubling to 64 s.
_FIRST_DELAY = 1.0
_LEAST_DELAY = 0.5
_DOUBLINGS = 6
_LONGEST_DELAY = 64.0
# What the service backed out itself is tried once more and no oftener: a refused domain answers the same for ever.
_METHOD_FAILURE_TRIES = 2
# An address that is taken right after an unanswered create is most likely ours, and not listed yet.
_LATE_LISTING_LOOKS = 3

# How often a call is sent with yet another token, where other threads have used up the last one.
_MOST_TOKENS = 100

_END = object()

_UNANSWERED = "A create that was sent got no clear answer, and a look-up did not find the account; if it turns up later, its key is lost."

T = t.TypeVar("T")


@dataclasses.dataclass
class Use:
    """What has become of calls with a token: whether one was taken, and how many have no answer yet."""

    taken: bool = False
    under_way: int = 0


@dataclasses.dataclass(frozen=True)
class Session:
    """What authorize answered. ``groups_url`` is empty where the key is not one for the Partner API."""

    account_id: str
    groups_url: str
    token: str = dataclasses.field(repr=False)
    use: Use = dataclasses.field(default_factory=Use, repr=False, compare=False)


class Client:
    """One admin's view of the Partner API. Safe to use from many threads; authorizes once, when first needed.

    max_retries: how often a call is sent again, at most; 0 for never.
    wait: how to wait for some seconds; raises StoppedError where the run was asked to end.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        key_id: str,
        key: str,
        realm: str,
        api_version: str = "v3",
        max_retries: int = 5,
        wait: t.Callable[[float], t.Any] = time.sleep,
    ) -> None:
        self._transport = transport
        self._key_id = key_id
        self._key = key
        self._realm = realm
        self._version = api_version
        self._max_retries = max_retries
        self._wait = wait
        self._session: t.Optional[Session] = None
        self._session_lock = threading.Lock()
        # One for all operations: what the service counts is not documented, and it may well be the account.
        self._pace = Pace()
        self._pace_lock = threading.Lock()
        # By id, as far as they were listed: a listing of members does not always say it.
        self._group_names: dict[str, str] = {}
        self._calls: collections.Counter[str] = collections.Counter()
        self._calls_lock = threading.Lock()

    @property
    def calls(self) -> dict[str, int]:
        """How many requests were sent so far, by operation."""
        with self._calls_lock:
            return dict(sorted(self._calls.items()))

    # Authorize

    def authorize(self) -> Session:
        """Return the session of the Group admin, authorizing if that has not been done.

        Raises OptionError where the key is not one that the Partner API takes.
        """
        with self._session_lock:
            if self._session is None:
                session = self._authorize(self._key_id, self._key)
                if not session.groups_url:
                    raise OptionError(
                        f"Application key {self._key_id} cannot use the Partner API: authorize named no Groups service.",
                        remedy="Either this is not the Group admin's master application key (its key id equals the account id), "
                        "or the account is not enabled for the Partner API: ask Backblaze to enable it.",
                    )
                self._session = session
            return self._session

    def account_of(self, key_id: str, key: str) -> str:
        """Return the id of the account that an application key opens: the proof that a key is good, and whose it is."""
        return self._authorize(key_id, key).account_id

    def _authorize(self, key_id: str, key: str) -> Session:
        def send() -> Answer:
            self._count(AUTHORIZE)
            return self._transport.send("GET", f"{self._realm}/b2api/{self._version}/{AUTHORIZE}", auth=basic_auth(key_id, key))

        body = self._repeat(AUTHORIZE, send, _accept_object)
        groups = one(one(body.get("apiInfo")).get("groupsApi"))
        account_id, token = as_text(body.get("accountId")), as_text(body.get("authorizationToken"))
        if not account_id or not token or not token.isascii() or not token.isprintable() or " " in token:
            raise AnswerError("Backblaze answered authorize without a usable account id and token.", remedy="Check the realm.")
        groups_url = groups.get("groupsApiUrl")
        return Session(
            account_id=account_id,
            groups_url=check_service_url(groups_url, self._realm, "The groupsApiUrl") if groups_url else "",
            token=token,
        )

    def _renew(self, refused: Session) -> Session:
        """Return a session other than the refused one; of many threads that were refused, one authorizes."""
        with self._session_lock:
            if self._session is refused:
                self._session = None
        return self.authorize()

    # One call

    def _count(self, operation: str) -> None:
        with self._calls_lock:
            self._calls[operation] += 1

    def _send(self, method: str, operation: str, fields: dict[str, t.Any], gate: t.Callable[[], None]) -> Answer:
        """Send one call with a valid token; a refused one means that nothing was executed, and is renewed.

        That is once, unless other threads may have used up the fresh token in the meantime: those few codes do not say why a token is refused.
        """

        def send(session: Session) -> Answer:
            gate()
            self._count(operation)
            with self._using(session):
                answer = transmit(session)
                session.use.taken = session.use.taken or not refuses_token(answer)
                return answer

        def transmit(session: Session) -> Answer:
            url = f"{session.groups_url}/b2api/{self._version}/{operation}"
            full = {"adminAccountId": session.account_id, **fields}
            if method == "GET":
                return self._transport.send(method, url, auth=TokenAuth(session.token), query=full)
            return self._transport.send(method, url, auth=TokenAuth(session.token), body=json.dumps(full).encode())

        session = self.authorize()
        answer = send(session)
        for number in range(_MOST_TOKENS):
            if not refuses_token(answer) or (number and not self._used_by_others(session)):
                break
            try:
                session = self._renew(session)
            except NetworkError as exc:
                # Authorize did not come through; the call itself was refused.
                exc.sent = False
                raise
            answer = send(session)
        return answer

    @contextlib.contextmanager
    def _using(self, session: Session) -> t.Iterator[None]:
        """Count a call as under way."""
        with self._calls_lock:
            session.use.under_way += 1
        try:
            yield
        finally:
            with self._calls_lock:
                session.use.under_way -= 1

    def _used_by_others(self, session: Session) -> bool:
        """Tell whether a token that was refused to this thread was taken from another, or may be just now."""
        with self._calls_lock:
            return session.use.taken or bool(session.use.under_way)

    def _repeat(
        self,
        operation: str,
        send: t.Callable[[], Answer],
        accept: t.Callable[[Answer], t.Optional[T]],
        settle: t.Callable[[B2Error], None] = lambda failed: None,
    ) -> T:
        """Send until an answer is accepted or refused, within ``max_retries``.

        accept: takes what it needs out of an answer, before anything else looks at it; None where it is not there.
        settle: called before a repeat of what may have been executed; raises where it was.
        """
        # Being throttled says nothing about the call itself, so it is counted apart, and bounded by patience instead of attempts.
        attempt = throttles = 0
        patience = self._max_retries * _LONGEST_DELAY
        # Who was never sent waits for the pace that others brought about, even where nothing is to be sent again.
        turn, _waited = self._await_turn(max(patience, _LONGEST_DELAY))
        while True:
            asked = 0.0
            executed = throttled = hopeless = False
            try:
                answer = send()
            except NetworkError as exc:
                failed: B2Error = exc
                executed, hopeless = exc.sent, exc.hopeless
            else:
                value = accept(answer)
                if value is not None:
                    self._note_passed(turn)
                    return value
                failed = problem(operation, answer)
                verdict = judge(answer)
                if verdict in (Verdict.REFUSED, Verdict.RENEW):
                    self._note_passed(turn)
                    raise failed
                throttled, hopeless = verdict is Verdict.THROTTLED, verdict is Verdict.REDIRECTED
                asked = _asked(answer)
                if throttled or asked:
                    self._note_throttled(turn, asked)
                else:
                    self._note_passed(turn)
                executed = not throttled
            if executed:
                settle(failed)
            backed_out = failed.facts.get("code") == "method_failure" and attempt + 1 >= _METHOD_FAILURE_TRIES
            spent = attempt >= self._max_retries and not throttled
            delay = asked or _back_off(throttles if throttled else attempt)
            patience -= delay
            if hopeless or backed_out or spent or patience < 0:
                raise failed
            self._wait(delay)
            throttles, attempt = throttles + throttled, attempt + (not throttled)
            try:
                turn, waited = self._await_turn(max(patience, 0.0 if throttles else _LONGEST_DELAY))
            except PatienceError:
                raise failed from None
            patience -= waited

    def _await_turn(self, patience: float) -> tuple[Turn, float]:
        """Wait until a call may be sent: at once, unless the service throttled. Return the turn, and how many seconds were waited.

        Raises PatienceError, at once, where that would take longer than ``patience``, in seconds.
        """
        waited = 0.0
        while not self._pace.free:
            now = time.monotonic()
            with self._pace_lock:
                turn = self._pace.turn(now)
            if turn.at > now:
                waited += turn.at - now
                if waited > patience:
                    raise PatienceError(turn.at - now)
                self._wait(turn.at - now)
            if self._pace.holds(turn):
                return turn, waited
        return AT_ONCE, waited

    def _note_passed(self, turn: Turn) -> None:
        with self._pace_lock:
            self._pace.passed(turn, time.monotonic())

    def _note_throttled(self, turn: Turn, asked: float) -> None:
        """Slow all threads down: a Retry-After speaks of the whole account."""
        with self._pace_lock:
            self._pace.throttled(turn, time.monotonic(), asked)

    def _operate(
        self,
        method: str,
        operation: str,
        fields: dict[str, t.Any],
        accept: t.Callable[[Answer], t.Optional[T]],
        settle: t.Callable[[B2Error], None] = lambda failed: None,
        gate: t.Callable[[], None] = lambda: None,
    ) -> T:
        """Make one call of the Partner API, see _repeat; ``gate`` is called before each time it is sent."""

        # Before the loop, so that its attempts are not multiplied by those of authorize.
        self.authorize()
        return self._repeat(operation, lambda: self._send(method, operation, fields, gate), accept, settle)

    def _read(self, operation: str, fields: dict[str, t.Any]) -> dict[str, t.Any]:
        """Make one call that changes nothing, and return the object that it answers."""
        return self._operate("GET", operation, fields, _accept_object)

    def _pages(
        self, operation: str, fields: dict[str, t.Any], start: str, following: str, array: str
    ) -> t.Iterator[tuple[dict[str, t.Any], list[t.Any]]]:
        """Yield (page, its entries) until the service names no further page."""
        for _page in range(_MAX_PAGES):
            page = self._read(operation, fields)
            entries = page.get(array)
            if not isinstance(entries, list):
                raise AnswerError(f"The answer of Backblaze to {operation} holds no {array}.")
            yield page, entries
            following_start = as_text(page.get(following))
            if not following_start:
                return
            fields = {**fields, start: following_start}
        raise AnswerError(f"The answer of Backblaze to {operation} does not end: {_MAX_PAGES} pages were read.")

    # Groups

    def groups(self, group_name: t.Optional[str] = None) -> list[Group]:
        """Return the admin's Groups, all or those of one name (names are not unique)."""
        fields: dict[str, t.Any] = {"maxGroupCount": _GROUPS_PER_PAGE}
        if group_name is not None:
            fields["groupName"] = group_name
        found: dict[str, Group] = {}
        starts: set[str] = set()
        for page, entries in self._pages(LIST_GROUPS, fields, "startGroupId", "nextGroupId", "groups"):
            before = len(found)
            for entry in entries:
                group = listed_group(entry)
                found.setdefault(group.group_id, group)
                self._group_names[group.group_id] = group.group_name
            # A page may be empty where the service filters after it has paged; it is the last one if it leads nowhere new.
            start = as_text(page.get("nextGroupId"))
            if len(found) == before and start in starts:
                break
            starts.add(start)
        return [group for group in found.values() if group_name in (None, group.group_name)]

    def group_id(self, group_name: str) -> str:
        """Return the id of the one Group of that name.

        Raises OptionError where there is none, or more than one.
        """
        found = self.groups(group_name)
        if len(found) == 1:
            return found[0].group_id
        if found:
            ids = ", ".join(group.group_id for group in found)
            raise OptionError(f"{len(found)} Groups have the name {group_name!r}: {ids}.", remedy="Name the Group by group_id.")
        raise OptionError(
            f"This account is the admin of no Group with the name {group_name!r}.",
            remedy="List the Groups with community.backblaze.b2_group_info.",
        )

    def resolve_group(self, group_id: t.Optional[str], group_name: t.Optional[str]) -> str:
        """Return the id of the Group that is named by one of the two."""
        return group_id or self.group_id(group_name or "")

    def resolve_groups(self, group_id: t.Optional[str], group_name: t.Optional[str]) -> list[str]:
        """Return the id of the Group that is named by one of the two, or of all Groups where neither is given."""
        if group_id or group_name:
            return [self.resolve_group(group_id, group_name)]
        return [group.group_id for group in self.groups()]

    # Members

    def _member_pages(self, group_id: str, most: int, **fields: str) -> t.Iterator[list[Member]]:
        """Yield the members of a Group page by page, ``most`` on each."""
        full = {"groupId": group_id, "maxMemberCount": most, **fields}
        for page, entries in self._pages(LIST_MEMBERS, full, "startEmail", "nextEmail", "groupMembers"):
            name = as_text(page.get("groupName")) or self._group_names.get(group_id, "")
            yield [listed_member(entry, group_id, name) for entry in entries]

    def _listing(self, group_id: str) -> t.Iterator[list[Member]]:
        """Yield every member of a Group, each once, page by page.

        The last page may name a next one all the same, so the listing ends with a page that adds nobody.
        """
        seen: set[str] = set()
        for page in self._member_pages(group_id, _MEMBERS_PER_PAGE):
            new: dict[str, Member] = {}
            for member in page:
                if member.account_id not in seen:
                    new.setdefault(member.account_id, member)
            if not new:
                return
            seen.update(new)
            yield list(new.values())

    def members(self, group_id: str) -> list[Member]:
        """Return every member of a Group, each once."""
        return [member for page in self._listing(group_id) for member in page]

    def each_member_of(self, group_ids: t.Iterable[str], at_once: int = 1) -> t.Iterator[Member]:
        """Yield the members of several Groups in the order of the Groups, each account once, while threads list on ahead.

        at_once: how many Groups are listed at the same time. What is wrong with a Group is raised when its turn has come.
        """
        seen: set[str] = set()
        listings = [self._listing(group_id) for group_id in dict.fromkeys(group_ids)]
        for page in _read_ahead(listings, at_once) if at_once > 1 else itertools.chain.from_iterable(listings):
            for member in page:
                if member.account_id not in seen:
                    seen.add(member.account_id)
                    yield member

    def members_of(self, group_ids: t.Iterable[str]) -> list[Member]:
        """Return the members of several Groups, each account once."""
        return list(self.each_member_of(group_ids))

    def find_member(self, group_id: str, email: str) -> t.Optional[Member]:
        """Look up one member in one call.

        A miss is not yet proof: whether the service orders addresses without regard to case is not known.
        """
        return _of_address(next(self._member_pages(group_id, 1, startEmail=folded(email))), email)

    def search_member(self, group_id: str, email: str) -> t.Optional[Member]:
        """Look for one member through the whole list: slower than find_member, and certain."""
        return _of_address(self.members(group_id), email)

    def create_member(
        self, group_id: str, email: str, region: t.Optional[str] = None, gate: t.Callable[[], None] = lambda: None, ignoring: str = ""
    ) -> NewMember:
        """Create a member. The caller has to make the key of the result safe before it does anything else.

        email: in lower case. region: left out of the request where it is None. gate: called before each time the create is sent;
        waits or raises where nothing may be created now. ignoring: an account that has just left, and may still be listed.

        Raises ApiError where Backblaze refused; KeyLostError where the account was (or may have been) made and its key
        never arrived; MemberExistsError where the address is in the Group after all; any other B2Error where nothing came of it.
        ``may_have_acted`` of the error says whether that rests on a look-up only.
        """
        fields = {"groupId": group_id, "memberEmail": email}
        if region:
            fields["region"] = region
        unanswered: list[B2Error] = []

        def settle(failed: B2Error) -> None:
            """Look whether a create that may have been executed was."""
            unanswered.append(failed)
            look(self.find_member, failed)

        def look(find: t.Callable[[str, str], t.Optional[Member]], failed: B2Error) -> None:
            try:
                member = find(group_id, email)
            except B2Error as exc:
                raise KeyLostError(email, "", f"{failed.happened} The look-up failed too: {exc.happened}") from failed
            if member and member.account_id != ignoring:
                raise KeyLostError(email, member.account_id, failed.happened) from failed

        def accept(answer: Answer) -> t.Optional[NewMember]:
            return find_new_member(answer, email, group_id, region or "")

        try:
            return self._operate("POST", CREATE_MEMBER, fields, accept, settle, gate)
        except B2Error as exc:
            exc.may_have_acted = bool(unanswered)
            exc.changed = exc.changed or (_UNANSWERED if unanswered else "It was not created.")
            if isinstance(exc, ApiError) and exc.code == "invalid_email":
                self._settle_taken(group_id, email, unanswered, exc, ignoring)
            elif unanswered and not isinstance(exc, KeyLostError):
                # The last word is not left to the quick look-up, which may miss what is there.
                look(self.search_member, unanswered[-1])
            raise

    def _settle_taken(self, group_id: str, email: str, unanswered: list[B2Error], refusal: ApiError, ignoring: str) -> None:
        """Say whose the address is that Backblaze will not take: returns only where it is nobody's in this Group."""
        for look in range(_LATE_LISTING_LOOKS if unanswered else 1):
            try:
                if look:
                    self._wait(_back_off(look))
                member = self.search_member(group_id, email)
            except B2Error as exc:
                if unanswered:
                    raise KeyLostError(email, "", f"{unanswered[0].happened} The look-up failed too: {exc.happened}") from refusal
                return
            if member and member.account_id == ignoring:
                member = None
            if member and unanswered:
                raise KeyLostError(email, member.account_id, unanswered[0].happened) from refusal
            if member:
                raise MemberExistsError(member) from refusal
        if unanswered:
            raise KeyLostError(email, "", f"{unanswered[0].happened} Now the address is refused, yet it is not in the Group.") from refusal

    def eject_member(
        self, group_id: str, account_id: str, new_email: t.Optional[str] = None, gate: t.Callable[[], None] = lambda: None
    ) -> t.Optional[Member]:
        """Eject a member; it cannot be undone. Return the member, or None where it had left already.

        new_email: the address that the leaving account gets. gate: as for create_member.
        """
        fields = {"groupId": group_id, "memberAccountId": account_id}
        if new_email:
            fields["email"] = new_email
        unanswered: list[B2Error] = []
        try:
            try:
                answer = self._operate("POST", EJECT_MEMBER, fields, _accept_object, unanswered.append, gate)
            except ApiError as refusal:
                if refusal.code != "invalid_member_account_id" or not self._has_left(group_id, account_id, _LATE_LISTING_LOOKS if unanswered else 1):
                    raise
                # Gone: by our own unanswered call, or by somebody else.
                return Member(account_id=account_id, email=new_email or "", group_id=group_id) if unanswered else None
        except B2Error as exc:
            if unanswered:
                exc.changed = f"Account {account_id} may have been ejected."
                exc.remedy = "Run again: the next run looks first."
            raise
        return read_member(answer, group_id)

    def _has_left(self, group_id: str, account_id: str, looks: int) -> bool:
        """Tell whether an account is in no listing of a Group any more; looks: how often it is listed, as that may lag behind."""
        for look in range(looks):
            if look:
                self._wait(_back_off(look))
            if all(member.account_id != account_id for member in self.members(group_id)):
                return True
        return False


def _back_off(attempt: int) -> float:
    """Return the seconds before the next attempt."""
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(attempt, _DOUBLINGS)) * random.uniform(0.75, 1.25))  # noqa: S311 - no secret


def _asked(answer: Answer) -> float:
    """Return the seconds that an answer asks to wait, or 0. Never next to none, or being throttled would be a loop without a pause."""
    asked = retry_after(answer, datetime.datetime.now(datetime.timezone.utc))
    return max(asked, _LEAST_DELAY) if asked else 0.0


def _accept_object(answer: Answer) -> t.Optional[dict[str, t.Any]]:
    """Take the object of a successful answer, sent bare or as an array of one."""
    if not 200 <= answer.status < 300 or not answer.complete:
        return None
    return one(parse(answer)) or None


def _read_ahead(sources: t.Iterable[t.Iterator[T]], threads: int) -> t.Iterator[T]:
    """Yield what the sources yield, one source after the other, while threads read several of them to their ends.

    What a source raises is raised in its turn. Nobody waits for the threads: who leaves early, by Ctrl-C for one, is not held up by a
    server that does not answer.
    """
    waiting: collections.deque[tuple[t.Iterator[T], queue.SimpleQueue[t.Any]]] = collections.deque(
        (source, queue.SimpleQueue()) for source in sources
    )
    turns = [results for _source, results in waiting]

    def read() -> None:
        while waiting:
            try:
                source, results = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                for value in source:
                    results.put(value)
                results.put(_END)
            except BaseException as exc:  # noqa: BLE001 - not handled here but handed on
                results.put(exc)

    for _number in range(min(threads, len(turns))):
        threading.Thread(target=read, daemon=True).start()
    try:
        for results in turns:
            for value in iter(results.get, _END):
                if isinstance(value, BaseException):
                    raise value
                yield value
    finally:
        waiting.clear()


def _of_address(members: t.Iterable[Member], email: str) -> t.Optional[Member]:
    """Return the member with an address, whatever its case."""
    return next((member for member in members if folded(member.email) == folded(email)), None)
