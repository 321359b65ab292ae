# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every refusal of the service is explained, and tells its reader what to do."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    UNCHANGED,
    ApiError,
    KeyLostError,
    MemberExistsError,
    OptionError,
    remedy_for,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import Member

# By hand from the error table of Backblaze's reference.
CODES = [
    "bad_request",
    "bad_auth_token",
    "expired_auth_token",
    "unauthorized",
    "invalid_group_id",
    "invalid_email",
    "invalid_region",
    "too_many_members",
    "out_of_range",
    "invalid_member_account_id",
    "invalid_sms_phone",
    "method_failure",
    "access_denied",
    "storage_cap_exceeded",
    "transaction_cap_exceeded",
    "download_cap_exceeded",
]


@pytest.mark.parametrize("code", CODES)
def test_every_documented_code_has_a_meaning_and_a_remedy_of_its_own(code):
    meaning, remedy = remedy_for(code)
    assert len(meaning) > 20
    assert len(remedy) > 10
    assert (meaning, remedy) != remedy_for("no_such_code")
    told = ApiError("b2_create_group_member", 401, code, "words of the service")
    for part in ("b2_create_group_member", code, "words of the service", meaning, remedy):
        assert part in str(told)
    assert told.facts == {"code": code, "status": 401}


def test_no_two_codes_share_a_text_by_accident():
    texts = [remedy_for(code)[0] for code in CODES if not code.endswith("_cap_exceeded")]
    assert len(texts) == len(set(texts))


def test_an_ejected_or_foreign_address_is_named_as_a_reason():
    meaning = remedy_for("invalid_email")[0]
    assert "already" in meaning
    assert "eject" in meaning


def test_a_lost_key_never_claims_that_nothing_changed():
    for lost in (
        KeyLostError("a@x.example", "5f2a1c0b3d4e", "the line was cut"),
        KeyLostError("a@x.example", "", "the line was cut"),
    ):
        assert "Nothing was changed" not in lost.explain("Nothing was changed at Backblaze.")
        assert "a@x.example" in str(lost)
        assert "the line was cut" in str(lost)
    assert "5f2a1c0b3d4e" in str(KeyLostError("a@x.example", "5f2a1c0b3d4e", "x"))


def test_what_a_reader_gets_is_what_happened_what_changed_and_what_to_do():
    error = OptionError("This cannot be.", remedy="Do that.")
    assert error.explain(UNCHANGED) == "This cannot be. Nothing was changed at Backblaze. Do that."
    # An inventory or a lookup changes nothing, so it does not say so.
    assert str(error) == "This cannot be. Do that."
    assert MemberExistsError(Member("5f2a1c0b3d4e", "A@x.example")).member.account_id == "5f2a1c0b3d4e"
