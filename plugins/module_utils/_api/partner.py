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
import itertools
import queue
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import MAX_CREATE_ANSWER, find_new_member
from ansible_collections.community.backblaze.plugins.module_utils._api.calls import (
    Caller,
    Handling,
    accept_object,
    back_off,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    WRONG_KEY_CODES,
    AnswerError,
    ApiError,
    B2Error,
    KeyLostError,
    MemberExistsError,
    OptionError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Group,
    Member,
    NewMember,
    Proof,
    as_text,
    folded,
    listed_group,
    listed_member,
    read_member,
)

LIST_GROUPS = "b2_list_groups"
LIST_MEMBERS = "b2_list_group_members"
CREATE_MEMBER = "b2_create_group_member"
EJECT_MEMBER = "b2_eject_group_member"

# The most that the service gives in one page.
_GROUPS_PER_PAGE = 100
_MEMBERS_PER_PAGE = 1000
# A listing that never ends is not a listing: twenty times what the service documents as the most.
_MAX_PAGES = 100
# An address that is taken right after an unanswered create is most likely ours, and not listed yet.
_LATE_LISTING_LOOKS = 3

_END = object()

_UNANSWERED = "A create that was sent got no clear answer, and a look-up did not find the account; if it turns up later, its key is lost."

_RESENT = "Most probably it was not created; the next run looks."

T = t.TypeVar("T")


class Client:
    """One admin's view of the Partner API. Safe to use from many threads."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        # By id, as far as they were listed: a listing of members does not always say it.
        self._group_names: dict[str, str] = {}

    @property
    def calls(self) -> dict[str, int]:
        """How many requests were sent so far, by operation."""
        return self._caller.calls

    def close(self) -> None:
        """Close every connection."""
        self._caller.close()

    def authorize(self) -> None:
        """Authorize, if that has not been done; OptionError where the key is not one that the Partner API takes."""
        self._caller.authorize()

    def account_of(self, key_id: str, key: str) -> str:
        """Return the id of the account that an application key opens: the proof that a key is good, and whose it is."""
        return self._caller.account_of(key_id, key)

    def opens(self, key_id: str, key: str) -> str:
        """Return the id of the account that an application key opens, empty where Backblaze says that the key is no good.

        Any other refusal says nothing about the key, and is raised: it is about the member's account.
        """
        try:
            return self.account_of(key_id, key)
        except ApiError as exc:
            if exc.code in WRONG_KEY_CODES:
                return ""
            raise

    def _pages(
        self, operation: str, fields: dict[str, t.Any], start: str, following: str, array: str
    ) -> t.Iterator[tuple[dict[str, t.Any], list[t.Any]]]:
        """Yield (page, its entries) until the service names no further page."""
        for _page in range(_MAX_PAGES):
            page = self._caller.read(operation, fields)
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
            raise OptionError(
                f"{len(found)} Groups have the name {group_name!r}: {ids}.", remedy="Name the Group by group_id."
            )
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
        self,
        group_id: str,
        email: str,
        region: t.Optional[str] = None,
        gate: t.Callable[[], None] = lambda: None,
        ignoring: str = "",
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
        # What was sent and may have been executed; and what was sent and most probably was not: throttled, or its token refused.
        unanswered: list[B2Error] = []
        resent: list[B2Error] = []

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

        how = Handling(
            accept=lambda answer: find_new_member(answer, email, group_id, region or ""),
            is_sure=lambda new: not (new.doubt or new.complaint or new.others),
            settle=settle,
            resend=resent.append,
            gate=gate,
            most=MAX_CREATE_ANSWER,
        )
        try:
            return self._caller.operate("POST", CREATE_MEMBER, fields, how)
        except B2Error as exc:
            exc.may_have_acted = bool(unanswered or resent)
            exc.changed = exc.changed or (_UNANSWERED if unanswered else _RESENT if resent else "It was not created.")
            if isinstance(exc, ApiError) and exc.code == "invalid_email":
                self._settle_taken(group_id, email, unanswered, resent, exc, ignoring)
            elif unanswered and not isinstance(exc, KeyLostError):
                # The last word is not left to the quick look-up, which may miss what is there.
                look(self.search_member, unanswered[-1])
            elif resent and not isinstance(exc, KeyLostError):
                self._settle_resent(group_id, email, exc, ignoring)
            raise

    def _settle_taken(
        self,
        group_id: str,
        email: str,
        unanswered: list[B2Error],
        resent: list[B2Error],
        refusal: ApiError,
        ignoring: str,
    ) -> None:
        """Say whose the address is that Backblaze will not take: returns only where it is nobody's in this Group."""
        for look in range(_LATE_LISTING_LOOKS if unanswered or resent else 1):
            try:
                if look:
                    self._caller.wait(back_off(look))
                member = self.search_member(group_id, email)
            except B2Error as exc:
                if unanswered:
                    raise KeyLostError(
                        email, "", f"{unanswered[0].happened} The look-up failed too: {exc.happened}"
                    ) from refusal
                return
            if member and member.account_id == ignoring:
                member = None
            if member and (unanswered or resent):
                raise KeyLostError(email, member.account_id, (unanswered or resent)[0].happened) from refusal
            if member:
                raise MemberExistsError(member) from refusal
        if unanswered:
            raise KeyLostError(
                email, "", f"{unanswered[0].happened} Now the address is refused, yet it is not in the Group."
            ) from refusal

    def _settle_resent(self, group_id: str, email: str, refusal: B2Error, ignoring: str) -> None:
        """Look, if that is possible, whether a create that most probably was not executed was: returns only where nothing shows that it was."""
        try:
            member = self.find_member(group_id, email)
        except B2Error:
            return
        if member and member.account_id != ignoring:
            raise KeyLostError(email, member.account_id, refusal.happened) from refusal

    def prove(self, group_id: str, new: NewMember) -> Proof:
        """Find out whose a new key is that came in an odd answer: try it, and look up who has the address. The key has to be safe already."""
        opens: t.Optional[str] = None
        problems: list[str] = []
        try:
            opens = self._opens_late(new) if new.key_id else None
        except B2Error as exc:
            problems.append(f"The key could not be tried: {exc.happened}")
        if opens and opens == new.member.account_id and not new.complaint and not new.doubt:
            return Proof(opens)
        try:
            return Proof(opens, self._find_late(group_id, new.member.email), " ".join(problems))
        except B2Error as exc:
            problems.append(f"The member could not be looked up: {exc.happened}")
            return Proof(opens, None, " ".join(problems))

    def _opens_late(self, new: NewMember) -> str:
        """Return the account that a new key opens, empty for none. A key may not be known everywhere at once, so one refusal is not believed."""
        for look in range(_LATE_LISTING_LOOKS):
            if look:
                self._caller.wait(back_off(look))
            account = self.opens(new.key_id, new.key)
            if account:
                return account
        return ""

    def _find_late(self, group_id: str, email: str) -> t.Optional[Member]:
        """Look up a member that was created just now, and may not be listed yet."""
        for look in range(_LATE_LISTING_LOOKS):
            if look:
                self._caller.wait(back_off(look))
            member = self.find_member(group_id, email)
            if member:
                return member
        return self.search_member(group_id, email)

    def eject_member(
        self,
        group_id: str,
        account_id: str,
        new_email: t.Optional[str] = None,
        gate: t.Callable[[], None] = lambda: None,
    ) -> t.Optional[Member]:
        """Eject a member; it cannot be undone. Return the member, or None where it had left already.

        new_email: the address that the leaving account gets. gate: as for create_member.
        """
        fields = {"groupId": group_id, "memberAccountId": account_id}
        if new_email:
            fields["email"] = new_email
        # As in create_member.
        unanswered: list[B2Error] = []
        resent: list[B2Error] = []
        how = Handling(accept_object, settle=unanswered.append, resend=resent.append, gate=gate)
        try:
            try:
                answer = self._caller.operate("POST", EJECT_MEMBER, fields, how)
            except ApiError as refusal:
                ours = bool(unanswered or resent)
                if refusal.code != "invalid_member_account_id" or not self._has_left(
                    group_id, account_id, _LATE_LISTING_LOOKS if ours else 1
                ):
                    raise
                # Gone: by a call of ours that was sent before, or by somebody else.
                return Member(account_id=account_id, email=new_email or "", group_id=group_id) if ours else None
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
                self._caller.wait(back_off(look))
            if all(member.account_id != account_id for member in self.members(group_id)):
                return True
        return False


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
