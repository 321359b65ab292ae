# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make calls with one application key: authorize, send the call with the token, and renew a token that was refused.

``partner`` calls the Groups of an admin, and ``storage`` calls inside an account. Each of them says what its calls look
like (``Service``), and what is done about their answers (``Handling``).
"""

from __future__ import annotations

import dataclasses
import json
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import parse, problem, refuses_token
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater, ignore
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import (
    Answer,
    TokenAuth,
    Transport,
    basic_auth,
    check_service_url,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    AnswerError,
    B2Error,
    NetworkError,
    OptionError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import as_text, one

AUTHORIZE = "b2_authorize_account"
# Authorize at v3 refuses keys that are restricted to buckets and were created at v4. Authorize at v4 takes every key.
_AUTHORIZE_VERSION = "v4"

T = t.TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Service:
    """Describe a service of Backblaze, as authorize names it in ``apiInfo``.

    title: the name of the service in messages. api, url: where ``apiInfo`` has the URL of the service.
    version: of the calls. account_field: the field of each call that names the account of the session.
    remedy: what to do if authorize does not name the service.
    """

    title: str
    api: str
    url: str
    version: str
    account_field: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Session:
    """Hold the answer of authorize."""

    account_id: str
    token: str = dataclasses.field(repr=False)
    api_info: t.Mapping[str, t.Any] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Handling(t.Generic[T]):
    """Say how the answers to a call are handled.

    accept: takes the wanted value out of an answer, before any other code reads the answer. None if the value is
    missing.
    is_sure: tells whether the value certainly answers this request.
    settle: is called before a call is repeated that the service may have executed. Raises if the service did.
    resend: is called before a call is repeated that the service most probably did not execute, and before such a call
    fails.
    gate: is called each time before the call is sent. Waits, or raises if the call must not be sent now.
    """

    accept: t.Callable[[Answer], t.Optional[T]]
    is_sure: t.Callable[[T], bool] = lambda value: True
    settle: t.Callable[[B2Error], None] = ignore
    resend: t.Callable[[B2Error], None] = ignore
    gate: t.Callable[[], None] = lambda: None


class Caller:
    """Make calls with one application key. Safe to use from many threads. Authorizes once, when first needed.

    of_member: whether the key is a member's, so that errors are about the member's account and not about the Group
    admin's.
    """

    def __init__(
        self, transport: Transport, repeater: Repeater, *, realm: str, key_id: str, key: str, of_member: bool = False
    ) -> None:
        self.repeater = repeater
        self._transport = transport
        self._realm = realm
        self._key_id = key_id
        self._key = key
        self._of_member = of_member
        self._session: t.Optional[Session] = None
        self._session_lock = threading.Lock()

    def for_member(self, key_id: str, key: str) -> Caller:
        """Return a caller for a member's key: another session, but the same connections, pace and counts."""
        return Caller(self._transport, self.repeater, realm=self._realm, key_id=key_id, key=key, of_member=True)

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def authorize(self) -> Session:
        """Return the session of the key, authorizing if that has not been done."""
        with self._session_lock:
            if self._session is None:
                self._session = self._authorize()
            return self._session

    def url_of(self, session: Session, service: Service) -> str:
        """Return the URL of a service, as authorize named it.

        Raises OptionError if authorize does not name the service, and AnswerError if the URL must not get the token.
        """
        url = one(session.api_info.get(service.api)).get(service.url)
        if not url:
            raise OptionError(
                f"Application key {self._key_id} cannot use {service.title}: authorize named no {service.url}.",
                remedy=service.remedy,
            )
        return check_service_url(url, self._realm, f"The {service.url}")

    def operate(self, service: Service, method: str, operation: str, fields: dict[str, t.Any], how: Handling[T]) -> T:
        """Make one call, and repeat it as far as that is allowed (see Repeater). Return the value that was accepted."""
        # Authorize before the retries of the call begin: they must not multiply those of authorize.
        self.url_of(self.authorize(), service)
        return self.repeater.run(
            operation,
            lambda: self._send(service, method, operation, fields, how),
            how.settle,
            how.resend,
            of_member=self._of_member,
        )

    def read(self, service: Service, operation: str, fields: dict[str, t.Any]) -> dict[str, t.Any]:
        """Make one call that changes nothing. Return the object in its answer."""
        return self.operate(service, "GET", operation, fields, Handling(accept_object))

    def _authorize(self) -> Session:
        url = f"{self._realm}/b2api/{_AUTHORIZE_VERSION}/{AUTHORIZE}"
        auth = basic_auth(self._key_id, self._key)
        how = Handling(accept_object)
        body = self.repeater.run(
            AUTHORIZE, lambda: self._exchange("GET", AUTHORIZE, how, url, auth=auth), of_member=self._of_member
        )
        account_id, token = as_text(body.get("accountId")), as_text(body.get("authorizationToken"))
        if not account_id or not token or not token.isascii() or not token.isprintable() or " " in token:
            raise AnswerError(
                "Backblaze answered authorize without a usable account id and token.", remedy="Check the realm."
            )
        return Session(account_id, token, one(body.get("apiInfo")))

    def _session_but(self, refused: t.Optional[Session]) -> Session:
        """Return a session with another token than the refused one. Of many threads with that token, one authorizes."""
        with self._session_lock:
            if self._session is refused:
                self._session = None
        try:
            return self.authorize()
        except NetworkError as exc:
            # Authorize failed, so the call itself was not sent, or was refused.
            exc.sent = False
            raise

    def _send(
        self, service: Service, method: str, operation: str, fields: dict[str, t.Any], how: Handling[T]
    ) -> tuple[Answer, t.Optional[T]]:
        """Send one call. If its token is refused, most probably nothing was executed: send it with a new token."""

        def send(session: Session) -> tuple[Answer, t.Optional[T]]:
            url = f"{self.url_of(session, service)}/b2api/{service.version}/{operation}"
            full = {service.account_field: session.account_id, **fields}
            content: dict[str, t.Any] = {"query": full} if method == "GET" else {"body": json.dumps(full).encode()}
            return self._exchange(method, operation, how, url, auth=TokenAuth(session.token), **content)

        session = self._session_but(None)
        answer, value = send(session)
        if value is None and refuses_token(answer):
            how.resend(problem(operation, answer, of_member=self._of_member))
            answer, value = send(self._session_but(session))
        return answer, value

    def _exchange(
        self, method: str, operation: str, how: Handling[T], url: str, **request: t.Any
    ) -> tuple[Answer, t.Optional[T]]:
        """Send one request. Return the answer, and the value that was accepted from it.

        The connection is used again only if the value is certainly the one that was asked for.
        """
        taken: list[T] = []

        def is_sound(answer: Answer) -> bool:
            value = how.accept(answer)
            if value is None:
                return False
            taken.append(value)
            return how.is_sure(value)

        how.gate()
        self.repeater.count(operation)
        answer = self._transport.send(method, url, is_sound=is_sound, **request)
        return answer, taken[0] if taken else None


def accept_object(answer: Answer) -> t.Optional[dict[str, t.Any]]:
    """Take the object of a successful answer, sent bare or as an array of one."""
    if not 200 <= answer.status < 300 or not answer.complete:
        return None
    return one(parse(answer)) or None
