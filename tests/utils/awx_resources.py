# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for AWX's REST resources, and not an AWX: it keeps what is posted and finds it again, and runs nothing.

What the modules of awx.awx meet: lists with exact filters, associations, surveys, secrets that are never shown, and
refusals of what refers to nothing. Written from what these modules send and expect.
"""

from __future__ import annotations

import copy
import http.server
import json
import re
import threading
import typing as t
import urllib.parse

import awx  # lies beside this file

Record = dict[str, t.Any]
ENCRYPTED = "$encrypted$"
VAULT_TYPE = {
    "name": "Vault",
    "kind": "vault",
    "managed": True,
    "inputs": {"fields": [{"id": "vault_password", "secret": True}, {"id": "vault_id"}]},
}
#: What a resource has beside what is posted, as far as it makes a difference.
DEFAULTS: dict[str, Record] = {
    "inventories": {"kind": "", "host_filter": None},
    "execution_environments": {"pull": ""},
    "projects": {"scm_revision": "", "scm_branch": ""},
}
#: Fields that are the id of something else.
REFERENCES = {
    "organization": "organizations",
    "inventory": "inventories",
    "project": "projects",
    "source_project": "projects",
    "credential": "credentials",
    "credential_type": "credential_types",
    "execution_environment": "execution_environments",
    "unified_job_template": "unified_job_templates",
}
#: No two of a kind have the same name and these.
SCOPE = ("name", "organization", "inventory", "credential_type", "unified_job_template")
#: What a name in the path of an association stands for, where it is not the name of the resource.
ASSOCIATED = {f"notification_templates_{event}": "notification_templates" for event in ("started", "success", "error")}
TEMPLATES = ("projects", "inventory_sources", "job_templates")


class Refused(Exception):
    """An answer that is not what was asked for: status, body."""


class Resources:
    """An AWX's resources in memory. records: by resource and id, with secrets in clear. log: method and path of each
    call."""

    def __init__(self, token: str, playbooks: t.Sequence[str]) -> None:
        self.token = token
        self.playbooks = playbooks
        self.records: dict[str, dict[int, Record]] = {}
        self.associations: dict[tuple[int, str], list[int]] = {}
        self.surveys: dict[int, t.Any] = {}
        self.log: list[tuple[str, str]] = []
        self._last = 0
        self._lock = threading.Lock()
        self.add("organizations", {"name": "Default"})
        self.add("credential_types", copy.deepcopy(VAULT_TYPE))

    def add(self, resource: str, record: Record) -> Record:
        """Keep a new record; ids are unique throughout."""
        self._last += 1
        url = f"/api/v2/{resource}/{self._last}/"
        related = {"survey_spec": f"{url}survey_spec/", "update": f"{url}update/"}
        shell = {
            "id": self._last,
            "type": resource[:-1],
            "url": url,
            "related": related,
            "summary_fields": {},
            **DEFAULTS.get(resource, {}),
        }
        return self.records.setdefault(resource, {}).setdefault(self._last, {**shell, **record})

    def named(self, resource: str) -> dict[str, Record]:
        """Return the records of a resource by name."""
        return {record["name"]: record for record in self.records.get(resource, {}).values()}

    def associated(self, record: Record, name: str) -> list[str]:
        """Return the names of what is associated with a record, sorted."""
        found = self._of(ASSOCIATED.get(name, name))
        return sorted(found[one]["name"] for one in self.associations.get((record["id"], name), []))

    def answer(self, method: str, path: str, query: dict[str, str], body: t.Any, token: str) -> tuple[int, t.Any]:
        """Return status and body for a call."""
        with self._lock:
            self.log.append((method, path))
            try:
                if token != f"Bearer {self.token}":
                    raise Refused(401, {"detail": "Authentication credentials were not provided."})
                met = re.fullmatch(r"/api/v2/(\w+)/(?:(\d+)/(?:(\w+)/)?)?", path)
                if not met:
                    raise Refused(404, {"detail": "Not found."})
                return self._answer(method, met[1], int(met[2] or 0), met[3] or "", query, body)
            except Refused as refused:
                return t.cast("tuple[int, t.Any]", refused.args)

    def _answer(
        self, method: str, resource: str, number: int, name: str, query: dict[str, str], body: t.Any
    ) -> tuple[int, t.Any]:
        if not number:
            return self._list(self._of(resource), query) if method == "GET" else (201, self._create(resource, body))
        record = self._of(resource).get(number)
        if record is None:
            raise Refused(404, {"detail": "Not found."})
        if name == "survey_spec":
            return self._survey(method, number, body)
        if name == "update":
            return 202, self._project_update(record)
        if name:
            return self._associate(
                method, self._of(ASSOCIATED.get(name, name)), self.associations.setdefault((number, name), []), body
            )
        if method == "PATCH":
            self._check(resource, {**record, **body}, number)
            record.update(body)
        elif method == "DELETE":
            del self.records[resource][number]
            return 204, None
        return 200, self._shown(record)

    def _of(self, resource: str) -> dict[int, Record]:
        parts = TEMPLATES if resource == "unified_job_templates" else (resource,)
        return {number: record for part in parts for number, record in self.records.get(part, {}).items()}

    def _list(self, records: dict[int, Record], query: dict[str, str]) -> tuple[int, t.Any]:
        every = {name: value for name, value in query.items() if not name.startswith("or__")}
        some = {name[len("or__") :]: value for name, value in query.items() if name.startswith("or__")}
        found = [
            self._shown(record)
            for record in records.values()
            if all(str(record.get(name)) == value for name, value in every.items())
            and (not some or any(str(record.get(name)) == value for name, value in some.items()))
        ]
        return 200, {"count": len(found), "next": None, "results": found}

    def _create(self, resource: str, body: Record) -> Record:
        self._check(resource, body)
        record = self._shown(self.add(resource, {name: value for name, value in body.items() if value is not None}))
        if resource == "projects":
            # A new one is fetched at once, and the modules wait for that.
            return {**record, "summary_fields": {"current_update": {"id": self._project_update(record)["id"]}}}
        return record

    def _project_update(self, project: Record) -> Record:
        done = {"status": "successful", "finished": True, "failed": False, "scm_revision": project["scm_revision"]}
        return self.add("project_updates", {"name": project["name"], **done})

    def _check(self, resource: str, record: Record, number: int = 0) -> None:
        wrong = {
            name: ["There is none."]
            for name, of in REFERENCES.items()
            if record.get(name) and record[name] not in self._of(of)
        }
        scope = [record.get(name) for name in SCOPE]
        if any(
            one["id"] != number and [one.get(name) for name in SCOPE] == scope for one in self._of(resource).values()
        ):
            wrong["__all__"] = ["There is one with this name."]
        if resource == "job_templates" and record["playbook"] not in self.playbooks:
            wrong["playbook"] = ["Playbook not found for project."]
        if resource == "credential_types":
            fields = ("name", "description", "kind", "inputs", "injectors")
            wrong.update({problem: ["Refused."] for problem in awx.problems({name: record[name] for name in fields})})
        if resource == "credentials" and not wrong:
            known = {field["id"] for field in self._fields(record)}
            wrong.update({name: ["Unknown."] for name in record["inputs"] if name not in known})
        if wrong:
            raise Refused(400, wrong)

    def _associate(self, method: str, others: dict[int, Record], numbers: list[int], body: t.Any) -> tuple[int, t.Any]:
        if method == "GET":
            return self._list({number: others[number] for number in numbers}, {})
        if body["id"] not in others:
            raise Refused(400, {"detail": "There is none."})
        if body.get("disassociate"):
            numbers.remove(body["id"])
        else:
            numbers.append(body["id"])
        return 204, None

    def _survey(self, method: str, number: int, body: t.Any) -> tuple[int, t.Any]:
        if method == "GET":
            return 200, self.surveys.get(number, {})
        questions = all({"type", "question_name", "variable", "required"} <= {*question} for question in body["spec"])
        if not {"name", "description"} <= {*body} or not questions:
            raise Refused(400, {"error": "This is no survey."})
        self.surveys[number] = body
        return 200, {}

    def _fields(self, credential: Record) -> list[Record]:
        return t.cast(
            "list[Record]", self.records["credential_types"][credential["credential_type"]]["inputs"]["fields"]
        )

    def _shown(self, record: Record) -> Record:
        """Return a record as it is answered: secrets are not."""
        if "credential_type" not in record:
            return record
        secret = {field["id"] for field in self._fields(record) if field.get("secret")}
        return {
            **record,
            "inputs": {name: ENCRYPTED if name in secret else value for name, value in record["inputs"].items()},
        }


class Server(http.server.ThreadingHTTPServer):
    """Serve resources on a loopback address while the with statement lasts."""

    daemon_threads = True

    def __init__(self, resources: Resources) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.resources = resources
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        token = self.headers.get("Authorization", "")
        status, body = self.server.resources.answer(
            self.command, url.path, query, json.loads(sent) if sent else None, token
        )
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # names that the base class asks for

    def log_message(self, *_unused: object) -> None:
        """The log is that of the resources."""
