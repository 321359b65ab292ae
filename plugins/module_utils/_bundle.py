# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pack the files that a controller and a target host exchange into one option or result of a module."""

from __future__ import annotations

import base64
import json
import typing as t
import zlib

# Bytes of unpacked content: a small bundle must not fill the memory of the machine that unpacks it.
_LARGEST = 256 * 1024 * 1024


def pack(content: t.Any) -> str:
    """Return content as compressed JSON in Base64."""
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


def unpack(bundle: str) -> t.Any:
    """Return the content of a bundle; ValueError if it is damaged, or larger than any vault directory."""
    opening = zlib.decompressobj()
    try:
        # One byte more, so that the end of the largest content is noticed.
        text = opening.decompress(base64.b64decode(bundle), _LARGEST + 1)
    except zlib.error as exc:
        raise ValueError from exc
    if not opening.eof or len(text) > _LARGEST:
        raise ValueError
    return json.loads(text)
