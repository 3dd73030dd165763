"""The verdict on a portrait, in words and numbers."""

from live_avatar.novelty import Novelty


def test_what_counts_as_familiar() -> None:
    def familiar(measured: float) -> bool:
        return Novelty(measured=measured, threshold=1.5, trained_on="").is_familiar

    assert [familiar(measured) for measured in (0.4, 1.5, 1.51, 40.0)] == [True, True, False, False]


def test_the_message_says_what_will_be_seen_and_what_to_do() -> None:
    message = Novelty(measured=3.456, threshold=1.5, trained_on="drawings, not photographs").message
    for part in ("smear", "(drawings, not photographs)", "use a portrait of their kind, or weights", "3.5", "1.5"):
        assert part in message
    assert "\n" not in message
    assert "()" not in Novelty(measured=3.0, threshold=1.5, trained_on="").message


def test_programs_get_the_numbers() -> None:
    novelty = Novelty(measured=3.456, threshold=1.5, trained_on="")
    assert novelty.metadata == {"measured": "3.456", "threshold": "1.5"}
