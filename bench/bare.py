"""The page that `web.py` compares with: as little as a Flask page with a session and a database can do.

    .venv/bin/python bench/bare.py DATABASE PORT THREADS BYTES KEY

One view behind waitress reads the session's cookie and three times from SQLite, and renders a template of BYTES bytes:
a table of what it has read, and text.
"""

import sqlite3
import sys
import threading

import waitress
from flask import Flask, abort, render_template, session
from jinja2 import Template

DAYS = 30

TEMPLATE = """<!doctype html><html lang="en"><head><title>{{ account.name }}</title></head><body>
<h1>{{ account.name }}</h1><p>{{ user.email }}</p>
<table>{% for day in days %}<tr><th>{{ day.day }}</th><td>{{ day.sent }}</td><td>{{ day.delivered }}</td></tr>
{% endfor %}</table>
</body></html>"""


def create_app(database: str, size: int, key: str) -> Flask:
    app = Flask("bare")
    app.secret_key = key
    thread_local = threading.local()

    def get_conn() -> sqlite3.Connection:
        if not hasattr(thread_local, "conn"):
            thread_local.conn = sqlite3.connect(database, isolation_level=None)
            thread_local.conn.row_factory = sqlite3.Row
        conn: sqlite3.Connection = thread_local.conn
        return conn

    def render_page(template: Template) -> str:
        conn = get_conn()
        user = conn.execute("SELECT email FROM users WHERE id = ?", (session.get("user"),)).fetchone() or abort(403)
        account = conn.execute("SELECT id, name, balance FROM accounts ORDER BY id LIMIT 1").fetchone()
        days = conn.execute(
            "SELECT day, sent, delivered FROM daily_totals WHERE account_id = ? ORDER BY day DESC LIMIT ?",
            (account["id"], DAYS),
        ).fetchall()
        return render_template(template, user=user, account=account, days=days)

    with app.test_request_context():
        session["user"] = 1
        padding_size = size - len(render_page(app.jinja_env.from_string(TEMPLATE)).encode())
    padded_template = app.jinja_env.from_string(TEMPLATE.replace("</body>", "x" * max(padding_size, 0) + "</body>"))
    app.add_url_rule("/", view_func=lambda: render_page(padded_template), endpoint="page")
    return app


if __name__ == "__main__":
    _, database, port, threads, size, key = sys.argv
    waitress.serve(create_app(database, int(size), key), host="127.0.0.1", port=int(port), threads=int(threads))
