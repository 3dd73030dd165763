"""Credits of a client: what was granted, less what was sent, and never more than the table allows."""

import pytest

from live_avatar.services.gateway.sessions.credits import CreditWindow
from live_avatar.serving.errors import ServiceError


def test_credits_are_granted_and_spent() -> None:
    window = CreditWindow(3)
    window.grant(2)
    window.spend()
    window.grant(2)
    assert window.available == 3


def test_more_than_may_be_held_is_refused_and_changes_nothing() -> None:
    window = CreditWindow(3)
    window.grant(2)
    with pytest.raises(ServiceError, match="2 \\+ 2 video units are more than 3") as caught:
        window.grant(2)
    assert (caught.value.reason, caught.value.field) == ("CREDIT_OUT_OF_RANGE", "credit.video_units")
    assert window.available == 2


def test_nothing_is_spent_that_was_not_granted() -> None:
    with pytest.raises(AssertionError):
        CreditWindow(3).spend()
