"""Addresses: how they are read and built."""

from types import CodeType
from typing import Any

import pytest
from flask import url_for


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Werkzeug compiles for addresses."""
    names: list[str] = []

    def compile_and_tell(module: Any, *args: Any) -> CodeType:
        names.append(module.body[0].name)
        return compile(module, *args)  # type: ignore[no-any-return]

    monkeypatch.setattr("werkzeug.routing.rules.compile", compile_and_tell, raising=False)
    return names


def test_what_builds_an_address_is_compiled_once_when_it_is_needed(compiled, make_app, config):
    app = make_app(config)
    assert compiled == []
    with app.test_request_context():
        assert [url_for("login.login", next=each) for each in "ab"] == ["/login?next=a", "/login?next=b"]
    assert compiled == ["<builder:'/login'>"]
