"""A person with a browser, at the real server."""

import re

import requests

from tests.support import DEADLINE_S, Person

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class WebVisitor:
    """Sends forms as a browser without JavaScript does."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def get(self, path: str) -> requests.Response:
        return self._session.get(self._url + path, timeout=DEADLINE_S, allow_redirects=False)

    def post(self, path: str, **fields: str) -> requests.Response:
        token = _TOKEN.search(self.get("/no-such-page").text)
        assert token, "the page holds no CSRF token"
        fields["csrf_token"] = token[1]
        return self._session.post(self._url + path, fields, timeout=DEADLINE_S, allow_redirects=False)

    def submit_password(self, person: Person, password: str) -> requests.Response:
        return self.post("/login", email=person.email, password=password)

    def log_in(self, person: Person, step: int = 0) -> bool:
        """Log in with the code of this moment, or of so many steps later; whether that went well."""
        self.submit_password(person, person.password)
        self.post("/login/totp", code=person.totp_code(step))
        return self.is_logged_in()

    def is_logged_in(self) -> bool:
        return self.get("/profile").status_code == 200
