# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep Hypothesis from shrinking failures, as a plugin of pytest: `make mutants` asks only whether a test fails."""

from __future__ import annotations

import hypothesis

# Every profile and every setting that is made after this one inherits the phases.
hypothesis.settings.register_profile("unshrunk", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
hypothesis.settings.load_profile("unshrunk")
