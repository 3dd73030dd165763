"""Objects of a cluster as its API server keeps them: versions, selectors, conflicts, and what happened when.

Knows the rules that were seen on a real server; knows no HTTP.
"""

import copy
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
KINDS = {
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
}
"""Resources that are served: version of their group, and kind."""


class RefusedError(Exception):
    """The server says no; carries the code and reason of its Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    def status(self) -> Object:
        """As the server puts it."""
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": str(self), "reason": self.reason, "details": {}, "code": self.code,
        }  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One resource in one namespace."""

    resource: str
    namespace: str


@dataclass(frozen=True)
class Selector:
    """Which objects a question is about."""

    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, what: Object | None) -> bool:
        """Whether an object is meant."""
        if what is None:
            return False
        own = what["metadata"].get("labels") or {}
        return all(own.get(name) == value for name, value in self.labels.items())


@dataclass(frozen=True)
class Change:
    """What one write did: the object before and after it."""

    version: int
    place: Place
    before: Object | None
    after: Object | None

    def event(self, selector: Selector) -> Object | None:
        """As a watcher with ``selector`` sees it; None: not at all."""
        had, has = selector.matches(self.before), selector.matches(self.after)
        if not had and not has:
            return None
        what = copy.deepcopy(self.after if has else self.before)
        assert what is not None
        what["metadata"]["resourceVersion"] = str(self.version)
        return {"type": "MODIFIED" if had and has else "ADDED" if has else "DELETED", "object": what}


class Objects:
    """Everything a cluster holds; all methods may be called from any thread."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 100
        self._oldest = self.version
        """Changes after this version are still known."""
        self._held: dict[Place, dict[str, Object]] = {}
        self._changes: list[Change] = []

    def list(self, place: Place, selector: Selector) -> Object:
        """All objects that match, with the version of the whole."""
        with self.changed:
            found = [copy.deepcopy(one) for one in self._held.get(place, {}).values() if selector.matches(one)]
            version, kind = KINDS[place.resource]
            for one in found:
                one.pop("kind"), one.pop("apiVersion")
            metadata = {"resourceVersion": str(self.version)}
            return {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": found}

    def get(self, place: Place, name: str) -> Object:
        """One object; raises RefusedError 404."""
        with self.changed:
            return copy.deepcopy(self._get(place, name))

    def create(self, place: Place, what: Object) -> Object:
        """Makes an object; raises RefusedError 409 where there is one of that name, 422 where it makes no sense."""
        with self.changed:
            name = what["metadata"]["name"]
            if name in self._held.get(place, {}):
                raise RefusedError(409, "AlreadyExists", f'{place.resource} "{name}" already exists')
            _check(place, what)
            version, kind = KINDS[place.resource]
            metadata = {
                **what["metadata"], "namespace": place.namespace, "uid": str(uuid.uuid4()),
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }  # fmt: skip
            made = {**copy.deepcopy(what), "kind": kind, "apiVersion": version, "metadata": metadata}
            return self._write(place, name, None, made)

    def replace(self, place: Place, name: str, what: Object) -> Object:
        """Puts an object in the place of what is there; raises RefusedError 404, 409 or 422."""
        with self.changed:
            before = self._get(place, name)
            _check(place, what)
            version = what["metadata"].get("resourceVersion")
            if version is None and place.resource == "leases":
                raise RefusedError(422, "Invalid", "metadata.resourceVersion: must be specified for an update")
            if version not in (None, before["metadata"]["resourceVersion"]):
                raise RefusedError(409, "Conflict", "the object has been modified; please apply your changes again")
            kept = {key: before["metadata"][key] for key in ("namespace", "uid", "creationTimestamp")}
            after = copy.deepcopy(what)
            after |= {key: before[key] for key in ("kind", "apiVersion")}
            after["metadata"] = {**after["metadata"], **kept, "resourceVersion": before["metadata"]["resourceVersion"]}
            return copy.deepcopy(before) if after == before else self._write(place, name, before, after)

    def delete(self, place: Place, name: str) -> None:
        """Forgets an object; raises RefusedError 404."""
        with self.changed:
            self._write(place, name, self._get(place, name), None)

    def compact(self) -> None:
        """Forgets what happened so far, as a server does after some minutes."""
        with self.changed:
            self._changes.clear()
            self._oldest = self.version

    def since(self, place: Place, version: int) -> Iterator[Change]:
        """What happened after ``version``; raises RefusedError 410 or 504 where nobody can say.

        ``changed`` must be held.
        """
        if version < self._oldest:
            raise RefusedError(410, "Expired", f"too old resource version: {version} ({self._oldest})")
        if version > self.version:
            raise RefusedError(504, "Timeout", f"Too large resource version: {version}, current: {self.version}")
        return iter([one for one in self._changes if one.version > version and one.place == place])

    def _get(self, place: Place, name: str) -> Object:
        what = self._held.get(place, {}).get(name)
        if what is None:
            raise RefusedError(404, "NotFound", f'{place.resource} "{name}" not found')
        return what

    def _write(self, place: Place, name: str, before: Object | None, after: Object | None) -> Object:
        self.version += 1
        held = self._held.setdefault(place, {})
        if after is None:
            del held[name]
        else:
            after["metadata"]["resourceVersion"] = str(self.version)
            held[name] = after
        self._changes.append(Change(self.version, place, before, copy.deepcopy(after)))
        self.changed.notify_all()
        return copy.deepcopy(after or {})


def _check(place: Place, what: Object) -> None:
    """What the server looks at before it writes."""
    spec = what.get("spec") or {}
    if place.resource != "leases":
        return
    if spec.get("leaseDurationSeconds", 1) < 1:
        raise RefusedError(422, "Invalid", "spec.leaseDurationSeconds: must be greater than 0")
    for name in ("acquireTime", "renewTime"):
        value = spec.get(name)
        if value is not None and "." not in value:
            raise RefusedError(400, "BadRequest", f"spec.{name}: {value} has no microseconds")
