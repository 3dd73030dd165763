"""Objects of a real API server behind the methods of the fake one, so that the same tests move both."""

from tests.services.gateway.fake_objects import KINDS, Object, Place

from .servers import ApiServer


class RealObjects:
    """Writes and reads through HTTP.

    Args:
        server: the API server.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def get(self, place: Place, name: str) -> Object:
        """One object."""
        return self._server.ask("GET", f"{_path(place)}/{name}")[1]

    def create(self, place: Place, what: Object) -> Object:
        """Makes an object."""
        return self._server.ask("POST", _path(place), _typed(place, what))[1]

    def replace(self, place: Place, name: str, what: Object) -> Object:
        """Puts an object in the place of what is there."""
        return self._server.ask("PUT", f"{_path(place)}/{name}", _typed(place, what))[1]

    def delete(self, place: Place, name: str) -> None:
        """Forgets an object."""
        self._server.ask("DELETE", f"{_path(place)}/{name}")


def _path(place: Place) -> str:
    return f"/apis/{KINDS[place.resource][0]}/namespaces/{place.namespace}/{place.resource}"


def _typed(place: Place, what: Object) -> Object:
    version, kind = KINDS[place.resource]
    return {**what, "apiVersion": version, "kind": kind}
