"""The form of API keys."""

import pytest

from live_avatar.services.gateway.access.api_key import ApiKey

SECRET = "s" * 43


def test_new_keys_differ_and_are_read_back() -> None:
    keys = [ApiKey.generate() for _ in range(100)]
    assert len({key.text for key in keys}) == len({key.key_id for key in keys}) == 100
    for key in keys:
        assert ApiKey.parse(key.text) == key
        assert len(key.key_id) >= 12 and len(key.secret) >= 43
        assert key.secret not in repr(key)


def test_a_key_matches_its_own_digest_alone() -> None:
    one, other = ApiKey.generate(), ApiKey.generate()
    assert one.matches(one.digest)
    assert not one.matches(other.digest)
    assert not one.matches(bytes(32))


@pytest.mark.parametrize(
    "text",
    ["", "la_", f"la_short_{SECRET}", f"la_abcdefghijkl_{'s' * 42}", f"la_abcdefghijkl_{'s' * 129}",
     f"LA_abcdefghijkl_{SECRET}", f"la_Abcdefghijkl_{SECRET}", f"la_abcdefghijkl_{SECRET}\n",
     f"la_abcdefghijkl_{SECRET}=", f" la_abcdefghijkl_{SECRET}"],
)  # fmt: skip
def test_what_has_another_form_is_no_key_and_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="has the form") as refused:
        ApiKey.parse(text)
    assert SECRET[:42] not in str(refused.value)
