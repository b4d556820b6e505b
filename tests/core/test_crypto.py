import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from portal.core.crypto import KeyFileError, Keys, hash_token


@given(st.binary(max_size=200))
def test_what_is_sealed_is_unsealed(plain):
    keys = Keys(b"k" * 32)
    sealed = keys.encrypt_column(plain)
    assert keys.decrypt_column(sealed) == plain
    assert keys.encrypt_column(plain) != sealed


def test_what_was_altered_or_sealed_by_others_is_not_unsealed(keys):
    sealed = keys.encrypt_column(b"secret")
    cut_off = [sealed[:length] for length in range(len(sealed))]
    for altered in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"\0" * 12 + sealed[12:], *cut_off):
        with pytest.raises(InvalidTag):
            keys.decrypt_column(altered)
    with pytest.raises(InvalidTag):
        Keys(b"other" * 6 + b"__").decrypt_column(sealed)


def test_each_purpose_has_its_own_key(keys):
    assert len({keys.digest_smpp_password("x"), hash_token("x"), keys.cookie_key}) == 3


def test_a_digest_depends_on_the_installation(keys):
    assert keys.digest_smpp_password("x") == keys.digest_smpp_password(b"x")
    assert keys.digest_smpp_password("x") != Keys(b"k" * 32).digest_smpp_password("x")


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path):
    Keys.create(tmp_path)
    file = tmp_path / "secret.key"
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    Keys.create(tmp_path)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), ("xyz", "is damaged"), ("ff" * 16, "must hold 32 bytes"), (b"\xff\xfe", "is damaged")],
)
def test_a_key_that_is_no_key_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "secret.key").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KeyFileError, match=message):
        Keys.load(tmp_path)
