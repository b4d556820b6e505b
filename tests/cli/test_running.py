"""`serve`, `web` and `smsc`: what keeps them from starting."""

import pytest


@pytest.mark.parametrize("command", ["serve", "web", "smsc"])
def test_nothing_starts_without_the_key_of_its_database(refused, data, command):
    (data / "secret.key").write_text("ab" * 32)
    assert "secret.key belongs to another database" in refused(command)
    (data / "secret.key").unlink()
    assert "secret.key is missing" in refused(command)
