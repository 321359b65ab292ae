# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Call the Partner API: list the Groups of an admin, and list, create and eject their members.

Calls that change nothing are repeated. A create is repeated at once only if it was certainly not executed: it was
throttled, its token was refused, or no connection was made. After any other failure the member is looked up first. An
email address is unique at Backblaze, so a repeated create can never make two accounts.
"""

from __future__ import annotations

import concurrent.futures
import difflib
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import find_new_member
from ansible_collections.community.backblaze.plugins.module_utils._api.calls import (
    Caller,
    Handling,
    Service,
    accept_object,
)
from ansible_collections.community.backblaze.plugins.module_utils._api.storage import Storage
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
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

# The most entries that the service puts on one page.
_GROUPS_PER_PAGE = 100
_MEMBERS_PER_PAGE = 1000
# The most names of Groups in an error message.
_NAMES_SHOWN = 10
# How often a listing or a key is tried that may not show yet what was done just before.
_LATE_LOOKS = 3

_UNANSWERED = (
    "A create got no clear answer, and a look-up did not find the account. "
    "If the account appears later, its key is lost."
)
_NOT_CREATED = "The member was not created."
_RESENT = "The account was most probably not created. The next run looks for it."

T = t.TypeVar("T")
V = t.TypeVar("V")


class Partner:
    """Make the calls of one Group admin. Safe to use from many threads.

    api_version: of the Group calls. Authorize is always sent at v4, whose token is valid for both.
    """

    def __init__(self, caller: Caller, api_version: str = "v3") -> None:
        self._caller = caller
        self._look = caller.repeater.look
        # By id, from listings: an answer about members does not always name the Group.
        self._group_names: dict[str, str] = {}
        # The names of all Groups, after they were listed for an error message.
        self._all_names: t.Optional[list[str]] = None
        self._service = Service(
            title="the Partner API",
            api="groupsApi",
            url="groupsApiUrl",
            version=api_version,
            account_field="adminAccountId",
            remedy="Use the Group admin's master application key: its key id equals the account id. "
            "If this is that key, the account is not enabled for the Partner API: ask Backblaze to enable it.",
        )

    @property
    def calls(self) -> dict[str, int]:
        """Return the number of requests that were sent so far, by operation."""
        return self._caller.repeater.calls

    def close(self) -> None:
        """Close every connection."""
        self._caller.close()

    def authorize(self) -> None:
        """Authorize, if that has not been done. Raises OptionError if the Partner API does not accept the key."""
        self._caller.url_of(self._caller.authorize(), self._service)

    def opens(self, key_id: str, key: str) -> str:
        """Return the id of the account that an application key opens; see Storage.opens."""
        return Storage(self._caller.for_member(key_id, key)).opens()

    def _pages(
        self, operation: str, fields: dict[str, t.Any], start: str, following: str, array: str
    ) -> t.Iterator[tuple[dict[str, t.Any], list[t.Any]]]:
        """Yield (page, its entries) until the service names no further page."""
        while True:
            page = self._caller.read(self._service, operation, fields)
            entries = page.get(array)
            if not isinstance(entries, list):
                raise AnswerError(f"The answer of Backblaze to {operation} holds no {array}.")
            yield page, entries
            following_start = as_text(page.get(following))
            if not following_start:
                return
            fields = {**fields, start: following_start}

    # Groups

    def groups(self, group_name: t.Optional[str] = None) -> list[Group]:
        """Return the Groups of the admin: all of them, or those of one name (names are not unique)."""
        fields: dict[str, t.Any] = {"maxGroupCount": _GROUPS_PER_PAGE}
        if group_name is not None:
            fields["groupName"] = group_name
        pages = self._pages(LIST_GROUPS, fields, "startGroupId", "nextGroupId", "groups")
        found = _each_once((map(listed_group, entries) for _page, entries in pages), lambda group: group.group_id)
        self._group_names.update((group.group_id, group.group_name) for group in found)
        return [group for group in found if group_name in (None, group.group_name)]

    def group_id(self, group_name: str) -> str:
        """Return the id of the Group with a name. Raises OptionError if no Group, or more than one, has the name."""
        found = self.groups(group_name)
        if len(found) == 1:
            return found[0].group_id
        if found:
            ids = ", ".join(group.group_id for group in found)
            raise OptionError(
                f"{len(found)} Groups have the name {group_name!r}: {ids}.", remedy="Name the Group by group_id."
            )
        raise OptionError(
            f"The account is the admin of no Group with the name {group_name!r}. {self._other_names(group_name)}",
            remedy="Correct the name. community.backblaze.b2_group_info lists all Groups.",
        )

    def _other_names(self, group_name: str) -> str:
        """Return a sentence with the names of the Groups that exist, the most similar ones first."""
        if self._all_names is None:
            self._all_names = sorted({group.group_name for group in self.groups()})
        if not self._all_names:
            return "It is the admin of no Group at all."
        shown = difflib.get_close_matches(group_name, self._all_names, _NAMES_SHOWN, cutoff=0.0)
        more = f" and {len(self._all_names) - len(shown)} more" if len(self._all_names) > len(shown) else ""
        return f"It is the admin of {', '.join(map(repr, shown))}{more}."

    def group_name(self, group_id: str) -> str:
        """Return the name of a Group if an answer has named the Group, else an empty text. Nothing is sent."""
        return self._group_names.get(group_id, "")

    def resolve_group(self, group_id: t.Optional[str], group_name: t.Optional[str]) -> str:
        """Return the id of the Group that the options group_id or group_name name."""
        return group_id or self.group_id(group_name or "")

    def resolve_groups(self, group_id: t.Optional[str], group_name: t.Optional[str]) -> list[str]:
        """Return the id of the Group that group_id or group_name names, or of all Groups if both are missing."""
        if group_id or group_name:
            return [self.resolve_group(group_id, group_name)]
        return [group.group_id for group in self.groups()]

    # Members

    def _member_pages(self, group_id: str, most: int, **fields: str) -> t.Iterator[list[Member]]:
        """Yield the members of a Group page by page, at most ``most`` on each."""
        full = {"groupId": group_id, "maxMemberCount": most, **fields}
        for page, entries in self._pages(LIST_MEMBERS, full, "startEmail", "nextEmail", "groupMembers"):
            name = as_text(page.get("groupName")) or self.group_name(group_id)
            self._group_names[group_id] = name
            yield [listed_member(entry, group_id, name) for entry in entries]

    def members(self, group_id: str) -> list[Member]:
        """Return every member of a Group, each account once."""
        return _each_once(self._member_pages(group_id, _MEMBERS_PER_PAGE), lambda member: member.account_id)

    def each_member_of(self, group_ids: t.Iterable[str], at_once: int = 1) -> t.Iterator[Member]:
        """Yield the members of several Groups in the order of the Groups, each account once.

        at_once: how many Groups are listed at the same time. An error about a Group is raised in the turn of that
        Group.
        """
        seen: set[str] = set()
        wanted = list(dict.fromkeys(group_ids))
        for members in _in_threads(self.members, wanted, at_once) if at_once > 1 else map(self.members, wanted):
            for member in members:
                if member.account_id not in seen:
                    seen.add(member.account_id)
                    yield member

    def members_of(self, group_ids: t.Iterable[str]) -> list[Member]:
        """Return the members of several Groups, each account once."""
        return list(self.each_member_of(group_ids))

    def find_member(self, group_id: str, email: str, ignoring: str = "") -> t.Optional[Member]:
        """Look up one member in one call. A miss is no proof: the service may order addresses with regard to case.

        ignoring: the id of an account that was just ejected, and may still be listed.
        """
        return _of_address(next(self._member_pages(group_id, 1, startEmail=folded(email))), email, ignoring)

    def search_member(self, group_id: str, email: str, ignoring: str = "") -> t.Optional[Member]:
        """Search the whole list of members for an address: slower than find_member, and certain."""
        return _of_address(self.members(group_id), email, ignoring)

    # Create

    def create_member(
        self,
        group_id: str,
        email: str,
        region: t.Optional[str] = None,
        gate: t.Callable[[], None] = lambda: None,
        ignoring: str = "",
    ) -> NewMember:
        """Create a member. The calling code must seal the key in the result before it does anything else.

        email: in lower case. region: left out of the request if it is None. gate: see Handling. ignoring: see
        find_member.

        Raises ApiError if Backblaze refused. Raises KeyLostError if the account was created, or may have been created,
        and its key never arrived. Raises MemberExistsError if the address is in the Group already. Raises another
        B2Error if no account was created; then ``may_have_acted`` tells whether only a look-up says so.
        """
        fields = {"groupId": group_id, "memberEmail": email, **({"region": region} if region else {})}
        # The failures of creates that may have been executed, and of creates that most probably were not.
        unanswered: list[B2Error] = []
        resent: list[B2Error] = []

        def look(find: t.Callable[[str, str, str], t.Optional[Member]], failed: B2Error, looks: int = 1) -> None:
            """Raise if the Group has a member with the address, or if a look-up after an unclear create fails."""
            try:
                member = self._look(lambda: find(group_id, email, ignoring), looks)
            except B2Error as exc:
                if unanswered:
                    cause = f"{unanswered[-1].happened} The look-up failed too: {exc.happened}"
                    raise KeyLostError(email, "", cause) from failed
                return
            if member and (unanswered or resent):
                raise KeyLostError(email, member.account_id, (unanswered or resent)[-1].happened) from failed
            if member:
                raise MemberExistsError(member) from failed

        def settle(failed: B2Error) -> None:
            unanswered.append(failed)
            look(self.find_member, failed)

        how = Handling(
            accept=lambda answer: find_new_member(answer, email, group_id, region or ""),
            is_sure=lambda new: not (new.doubt or new.complaint or new.others),
            settle=settle,
            resend=resent.append,
            gate=gate,
        )
        try:
            return self._caller.operate(self._service, "POST", CREATE_MEMBER, fields, how)
        except B2Error as exc:
            exc.may_have_acted = bool(unanswered or resent)
            exc.changed = exc.changed or (_UNANSWERED if unanswered else _RESENT if resent else _NOT_CREATED)
            if isinstance(exc, KeyLostError):
                raise
            if isinstance(exc, ApiError) and exc.code == "invalid_email":
                # After a create that may have been executed, the address is most likely taken by our own account.
                look(self.search_member, exc, _LATE_LOOKS if unanswered or resent else 1)
                if unanswered:
                    cause = f"{unanswered[-1].happened} Now the address is refused, yet it is not in the Group."
                    raise KeyLostError(email, "", cause) from exc
            elif unanswered:
                # The look-up of one member may miss the member, so the last look-up is the whole list.
                look(self.search_member, exc)
            elif resent:
                look(self.find_member, exc)
            raise

    def prove(self, group_id: str, new: NewMember) -> Proof:
        """Find out whose key an odd create answer holds: try the key, and look up the address. Seal the key first."""
        opens: t.Optional[str] = None
        problems: list[str] = []
        try:
            # A key may not be known everywhere at once, so one refusal is not believed.
            opens = self._look(lambda: self.opens(new.key_id, new.key), _LATE_LOOKS) if new.key_id else None
        except B2Error as exc:
            problems.append(f"The key could not be tried: {exc.happened}")
        if opens and opens == new.member.account_id and not new.complaint and not new.doubt:
            return Proof(opens)
        member = None
        try:
            email = new.member.email
            member = self._look(lambda: self.find_member(group_id, email), _LATE_LOOKS)
            member = member or self.search_member(group_id, email)
        except B2Error as exc:
            problems.append(f"The member could not be looked up: {exc.happened}")
        return Proof(opens, member, " ".join(problems))

    # Eject

    def eject_member(
        self,
        group_id: str,
        account_id: str,
        new_email: t.Optional[str] = None,
        gate: t.Callable[[], None] = lambda: None,
    ) -> t.Optional[Member]:
        """Eject a member. No API undoes this. Return the member, or None if the account had left the Group before.

        new_email: the address that the leaving account gets. gate: see Handling.
        """
        fields = {"groupId": group_id, "memberAccountId": account_id, **({"email": new_email} if new_email else {})}
        # As in create_member.
        unanswered: list[B2Error] = []
        resent: list[B2Error] = []

        def has_left() -> bool:
            return all(member.account_id != account_id for member in self.members(group_id))

        how = Handling(accept_object, settle=unanswered.append, resend=resent.append, gate=gate)
        try:
            try:
                return read_member(self._caller.operate(self._service, "POST", EJECT_MEMBER, fields, how), group_id)
            except ApiError as refusal:
                ours = bool(unanswered or resent)
                if refusal.code != "invalid_member_account_id" or not self._look(has_left, _LATE_LOOKS if ours else 1):
                    raise
                # Ejected by an earlier call of this method, or by somebody else.
                return Member(account_id=account_id, email=new_email or "", group_id=group_id) if ours else None
        except B2Error as exc:
            if unanswered:
                exc.changed = f"Account {account_id} may have been ejected."
                exc.remedy = "Run again: the next run looks first."
            raise


def _in_threads(work: t.Callable[[T], V], values: t.Sequence[T], at_once: int) -> t.Iterator[V]:
    """Yield the result of ``work`` for each value, in the order of the values, while threads work ahead.

    The threads are daemons: after Ctrl-C nobody waits for a server that does not answer. A ThreadPoolExecutor would
    wait for its threads when Python exits.
    """
    jobs: list[tuple[T, concurrent.futures.Future[V]]] = [(value, concurrent.futures.Future()) for value in values]
    left = iter(jobs)

    def run() -> None:
        for value, future in left:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(value))
                except BaseException as exc:  # noqa: BLE001 - not handled here but raised by result()
                    future.set_exception(exc)

    for _number in range(min(at_once, len(jobs))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _value, future in jobs:
            yield future.result()
    finally:
        for _value, future in jobs:
            future.cancel()


def _each_once(pages: t.Iterable[t.Iterable[V]], id_of: t.Callable[[V], str]) -> list[V]:
    """Return each entry of a listing once. The last page may name a next page, which then adds no entry."""
    found: dict[str, V] = {}
    for page in pages:
        before = len(found)
        for entry in page:
            found.setdefault(id_of(entry), entry)
        if len(found) == before:
            break
    return list(found.values())


def _of_address(members: t.Iterable[Member], email: str, ignoring: str) -> t.Optional[Member]:
    """Return the member with an address in any case, unless its account is to be ignored."""
    found = (member for member in members if folded(member.email) == folded(email) and member.account_id != ignoring)
    return next(found, None)
