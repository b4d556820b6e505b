"""`serve`, `web` and `smsc`: what keeps them from starting."""

import pytest

from tests.older_database import list_applied, list_copies, make_older_with_operator


@pytest.mark.parametrize("command", ["serve", "web", "smsc"])
def test_nothing_starts_without_the_key_of_its_database(refused, data, command):
    (data / "secret.key").write_text("ab" * 32)
    assert "secret.key belongs to another database" in refused(command)
    (data / "secret.key").unlink()
    assert "secret.key is missing" in refused(command)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_nothing_is_migrated_without_its_key(refused, run_app, data, keys, command):
    make_older_with_operator(data, keys)
    applied, key = list_applied(data), (data / "secret.key").read_text()
    (data / "secret.key").write_text("ab" * 32)
    assert "secret.key belongs to another database" in refused(command)
    assert list_applied(data) == applied
    assert list_copies(data) == []
    (data / "secret.key").write_text(key)
    assert run_app("migrate").returncode == 0
    assert list_applied(data) > applied
