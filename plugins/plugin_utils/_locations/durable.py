# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuse directories that may be lost with a job of AWX or ansible-runner, unless the user promises that they stay.

A job cannot see whether a directory outlives it: in a container a Kubernetes emptyDir looks like a persistent volume.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError

#: Set by ansible-runner and by AWX.
_DIRECTORIES = ("AWX_ISOLATED_DATA_DIR", "AWX_PRIVATE_DATA_DIR")
#: Remedies for vault_dir on the controller.
OTHER_LOCATIONS = (
    "Or keep the keys on a host, with vault_location: target, or in a Git repository, with vault_location: git."
)


def is_job(environment: t.Optional[t.Mapping[str, str]] = None) -> bool:
    """Tell whether ansible-runner or AWX started this process. environment: of another process."""
    environment = os.environ if environment is None else environment
    return any(name in environment for name in _DIRECTORIES) or ("AWX_HOST" in environment and "JOB_ID" in environment)


def prove_durable(directory: str, promised: bool, otherwise: str = "") -> None:
    """Raise StoreError in a job, unless the user has promised that the directory outlives it.

    directory: its option and path. otherwise: another remedy.
    """
    if promised or not is_job():
        return
    remedy = (
        "Mount a directory that outlives the job, give its path in this option, and set vault_dir_is_durable: true. "
        "An emptyDir does not outlive the job."
    )
    raise StoreError(
        f"{directory} may be lost with this job of AWX or ansible-runner, and every key in it.",
        remedy=f"{remedy} {otherwise}".rstrip(),
    )
