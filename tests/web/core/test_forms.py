"""What a form takes for a field's text."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from tests.support import Cast, Person
from tests.web.conftest import Browser

IPS = "/accounts/smpp-acme-1/ips"


@pytest.mark.parametrize(
    "sent",
    [
        {"data": {"network": (BytesIO(b"203.0.113.9"), "network.txt")}},
        {"json": {"network": 7}},
        {"json": {"network": ["203.0.113.9"]}},
        {"json": [7]},
        {"data": "[" * 10_000, "content_type": "application/json"},
    ],
)
def test_a_file_in_the_place_of_a_text_and_json_are_nothing(
    client: Callable[[Person], Browser], cast: Cast, sent: dict[str, Any]
) -> None:
    answer = client(cast.alice).post(IPS, **sent)
    assert answer.status_code == 422
    assert "“” isn&#39;t an IP address or range" in answer.text


def test_a_text_beside_a_file_is_read(client: Callable[[Person], Browser], cast: Cast) -> None:
    data = {"network": "203.0.113.9", "label": (BytesIO(b"x"), "label.txt")}
    assert client(cast.alice).post(IPS, data=data).status_code == 303
