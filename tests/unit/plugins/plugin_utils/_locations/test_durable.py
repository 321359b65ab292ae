# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Test that a job needs a promise for each directory with keys, and that other runs need none."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.durable import (
    OTHER_LOCATIONS,
    is_job,
    prove_durable,
)

AWX = {"AWX_HOST": "https://awx.example.com", "JOB_ID": "61"}


@pytest.mark.parametrize(
    "environment", [{"AWX_ISOLATED_DATA_DIR": "/runner/artifacts/61"}, {"AWX_PRIVATE_DATA_DIR": "/tmp/awx_61_x"}, AWX]
)
def test_a_job_is_told_by_its_environment(environment):
    assert is_job(environment)


@pytest.mark.parametrize(
    "environment", [{}, {"JOB_ID": "61"}, {"AWX_HOST": "https://awx.example.com"}, {"HOME": "/runner"}]
)
def test_what_is_not_a_job(environment):
    assert not is_job(environment)


def test_a_directory_of_a_job_takes_a_promise(monkeypatch):
    for name in ("AWX_ISOLATED_DATA_DIR", "AWX_PRIVATE_DATA_DIR", *AWX):
        monkeypatch.delenv(name, raising=False)
    prove_durable("vault_dir /srv/keys", promised=False)
    for name, value in AWX.items():
        monkeypatch.setenv(name, value)
    prove_durable("vault_dir /srv/keys", promised=True)
    with pytest.raises(StoreError) as caught:
        prove_durable("vault_dir /srv/keys", promised=False, otherwise=OTHER_LOCATIONS)
    for said in (
        "vault_dir /srv/keys may be lost",
        "vault_dir_is_durable: true",
        "emptyDir",
        "vault_location: target",
        "vault_location: git",
    ):
        assert said in str(caught.value)
