# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What AWX does with a custom credential type: which ones it takes, and what a job then finds in its environment.

Written from the behaviour of AWX 24, in awx/main/fields.py and awx/main/models/credential.py.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
import types
import typing as t

import yaml
from jinja2 import StrictUndefined, TemplateError, sandbox

_FILES = pathlib.Path(__file__).resolve().parents[2] / "playbooks" / "files"
CREDENTIAL_TYPE = _FILES / "awx_credential_type.yml"
#: For tools that read the environment only.
ENVIRONMENT_TYPE = _FILES / "awx_credential_type_environment.yml"

_NAME = r"[a-zA-Z_]+[a-zA-Z0-9_]*"
_FIELD = {"type", "format", "choices", "id", "label", "help_text", "multiline", "secret", "ask_at_runtime", "default"}
#: Variables of AWX itself and of the system under it.
_REFUSED = re.compile(
    r"ANSIBLE_.*|VIRTUAL_ENV|PATH|PYTHONPATH|JOB_ID|INVENTORY(_SOURCE|_UPDATE)?_ID|AD_HOC_COMMAND_ID|REST_API_(URL|TOKEN)|MAX_EVENT_RES|CACHE|"
    r"CALLBACK_(QUEUE|CONNECTION)|JOB_CALLBACK_DEBUG|INVENTORY_HOSTVARS|AWX_HOST|PROJECT_REVISION|SUPERVISOR_CONFIG_PATH"
)


def credential_type(path: pathlib.Path = CREDENTIAL_TYPE) -> dict[str, t.Any]:
    """Return a credential type that the collection ships."""
    return t.cast("dict[str, t.Any]", yaml.safe_load(path.read_text(encoding="utf-8")))


def problems(kind: dict[str, t.Any]) -> list[str]:
    """Return why AWX would not take a credential type; of what AWX lets in, as far as this collection makes use of
    it."""
    found = [f"unknown: {name}" for name in sorted({*kind} - {"name", "description", "kind", "inputs", "injectors"})]
    found += [] if kind["kind"] in ("cloud", "net") else ["kind"]
    found += _input_problems(kind["inputs"])
    found += _injector_problems(kind["injectors"], [field["id"] for field in kind["inputs"]["fields"]])
    return found


def _input_problems(inputs: dict[str, t.Any]) -> list[str]:
    ids = [field["id"] for field in inputs["fields"]]
    found = [f"inputs: {name}" for name in sorted({*inputs} - {"fields", "required"})]
    found += [f"required: {name}" for name in inputs.get("required", ()) if name not in ids]
    found += ["an id twice"] if len(set(ids)) < len(ids) else []
    for field in inputs["fields"]:
        name, kind = field["id"], field.get("type", "string")
        fits = re.fullmatch(_NAME, name) and name != "tower" and kind in ("string", "boolean") and field.get("label")
        texts = kind == "string" or not {"choices", "multiline", "format", "secret"} & {*field}
        default = "default" not in field or isinstance(field["default"], bool if kind == "boolean" else str)
        found += [] if fits and texts and default and {*field} <= _FIELD else [f"field: {name}"]
    return found


def _injector_problems(injectors: dict[str, dict[str, t.Any]], ids: list[str]) -> list[str]:
    found = [f"injectors: {name}" for name in sorted({*injectors} - {"env", "file", "extra_vars"})]
    files = injectors.get("file", {})
    found += [f"file: {name}" for name in files if not re.fullmatch(rf"template(\.{_NAME})?", name)]
    found += ["several files"] if "template" in files and len(files) > 1 else []
    for name, template in injectors.get("env", {}).items():
        found += (
            []
            if re.fullmatch(_NAME, name) and not _REFUSED.fullmatch(name) and template.isascii()
            else [f"env: {name}"]
        )
    values: dict[str, t.Any] = dict.fromkeys(ids, "EXAMPLE")
    if files:
        values["tower"] = _tower(dict.fromkeys(files, "EXAMPLE"))
    return found + [
        f"{part}: {name}"
        for part in ("file", "env")
        for name, text in injectors.get(part, {}).items()
        if not _renders(text, values)
    ]


def _renders(template: str, values: dict[str, t.Any]) -> bool:
    """Whether a template is one, and speaks of these values only."""
    try:
        sandbox.ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(template).render(values)
    except TemplateError:
        return False
    return True


def inject(kind: dict[str, t.Any], inputs: t.Mapping[str, str], directory: str | pathlib.Path) -> dict[str, str]:
    """Write the files of a credential with these inputs into a directory; return what it adds to the environment of a
    job."""
    # What was left empty is not there for the templates.
    values: dict[str, t.Any] = {name: value for name, value in inputs.items() if value}
    templates = sandbox.ImmutableSandboxedEnvironment()
    paths: dict[str, str] = {}
    for name, template in kind["injectors"].get("file", {}).items():
        content = templates.from_string(template).render(values)
        descriptor, paths[name] = tempfile.mkstemp(dir=directory)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(paths[name], 0o600)
    values["tower"] = _tower(paths)
    return {
        name: templates.from_string(template).render(values)
        for name, template in kind["injectors"].get("env", {}).items()
    }


def _tower(paths: dict[str, str]) -> types.SimpleNamespace:
    """Return what templates call ``tower``: ``filename`` of the one file, or ``filename.<name>`` of each."""
    if not paths:
        return types.SimpleNamespace()
    one = paths.get("template")
    return types.SimpleNamespace(
        filename=one or types.SimpleNamespace(**{name.partition(".")[2]: path for name, path in paths.items()})
    )
