"""Which kinds an API server knows, and under which path: what it says itself."""

from functools import cache

from .servers import ApiServer, Body


@cache
def _resources(server: ApiServer, version: str) -> dict[str, tuple[str, bool]]:
    """Name in paths, and whether it lives in a namespace, by kind."""
    path = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    _, answer = server.ask("GET", path)
    known = (one for one in answer["resources"] if "/" not in one["name"])
    return {one["kind"]: (one["name"], one["namespaced"]) for one in known}


def path_of(server: ApiServer, document: Body) -> str:
    """Where a document is posted; raises KeyError where the server does not know its kind."""
    version = document["apiVersion"]
    name, namespaced = _resources(server, version)[document["kind"]]
    prefix = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    return f"{prefix}/namespaces/{document['metadata']['namespace']}/{name}" if namespaced else f"{prefix}/{name}"


def create(server: ApiServer, document: Body, *, dry: bool = False) -> Body:
    """What the server makes of a document, kept unless ``dry``; raises RefusedError."""
    _, answer = server.ask("POST", path_of(server, document), document, **({"dryRun": "All"} if dry else {}))
    return answer
