"""`price …` as users and scripts run it."""

import json
from collections.abc import Callable, Iterable
from subprocess import CompletedProcess
from typing import Any

import pytest

COUNTRIES = 242


@pytest.fixture
def ok(run_app: Callable[..., CompletedProcess[str]]) -> Callable[..., Any]:
    """Runs a command that must succeed; returns its JSON value."""

    def run(*args: object, stdin: str = "") -> Any:
        done = run_app("price", *args, "--json", stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


@pytest.fixture
def refused(run_app: Callable[..., CompletedProcess[str]]) -> Callable[..., str]:
    """Runs a command that must be refused; returns its one line."""

    def run(*args: object, stdin: str = "") -> str:
        done = run_app("price", *args, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        return done.stderr

    return run


def italy(price: float | None, own: bool = True, coming: Iterable[object] = ()) -> dict[str, object]:
    return {"destination": "IT", "country": "Italy", "price": price, "own": own, "coming": list(coming)}


def test_a_price_is_set_dated_closed_and_called_off(ok, refused, run_app):
    assert ok("set", "it", "0.75") == [italy(0.75)]
    coming = {"valid_from": "2100-01-01T00:00:00Z", "price": None, "own": True}
    assert ok("close", "IT", "--from", "2100-01-01") == [italy(0.75, coming=[coming])]
    listed = ok("list")
    assert len(listed) == COUNTRIES
    assert italy(0.75, coming=[coming]) in listed
    lines = run_app("price", "list").stdout.splitlines()
    assert len(lines) == COUNTRIES + 1
    (line,) = [each for each in lines if each.startswith("IT ")]
    assert line.split() == "IT Italy 0.75 this list closed from 2100-01-01T00:00+00:00".split()
    assert ok("remove", "IT", "--from", "2100-01-01") == [italy(0.75)]
    assert ok("close", "IT") == [italy(None)]
    assert "is over" in refused("set", "IT", "1", "--from", "2020-01-01")
    assert "isn't a price" in refused("set", "IT", "free")
    assert "neither a country" in refused("set", "XX", "1")
    assert "isn't a date" in refused("close", "IT", "--from", "soon")
    assert "says nothing about 39342" in refused("remove", "39342")


def test_lists_are_made_assigned_and_deleted(ok, refused):
    volume = {"name": "Volume", "default": False, "customers": 0, "prices": 0}
    assert ok("create", "Volume") == volume
    assert "already a price list" in refused("create", "volume")
    assert ok("set", "IT", "0.7", "--list", "Volume") == [italy(0.7)]
    assert ok("assign", "Acme", "Volume") == {"customer": "Acme", "price_list": "Volume"}
    assert ok("lists") == [
        {"name": None, "default": True, "customers": 1, "prices": COUNTRIES},
        volume | {"customers": 1, "prices": 1},
    ]
    assert "is the list of Acme" in refused("delete", "Volume")
    assert ok("assign", "Acme") == {"customer": "Acme", "price_list": None}
    assert ok("rename", "Volume", "Big")["name"] == "Big"
    assert ok("remove", "IT", "--list", "Big") == [italy(1, own=False)]
    assert ok("delete", "Big")["name"] == "Big"
    assert "no price list “Big”" in refused("list", "--list", "Big")
    assert "no price list “”" in refused("set", "IT", "0.7", "--list", "")
    assert "no customer “Nobody”" in refused("assign", "Nobody")


def test_a_file_is_imported_all_or_none_and_exported_as_it_came(ok, refused, run_app, tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text("destination;price\nIT;0,7\nFR;0,5\nKP;4\n")
    counted = {"new": 1, "changed": 1, "unchanged": 1}
    assert ok("import", file, "--dry-run") == counted
    assert italy(1) in ok("list")
    assert ok("import", file) == counted
    assert italy(0.7) in ok("list")
    assert {"destination": "IT", "country": "Italy", "price": 0.7, "valid_from": None} in ok("export")
    exported = run_app("price", "export").stdout
    assert exported.splitlines()[0] == "destination,country,price,valid_from"
    assert ok("import", "-", stdin=exported) == {"new": 0, "changed": 0, "unchanged": COUNTRIES + 1}
    file.write_text("destination,price\nIT,2\nXX,1\nFR,free\n")
    error = refused("import", file)
    assert error.startswith("Nothing was imported: 2 lines can't be read. Line 3: “XX” is neither")
    assert "Line 4: “free” isn't a price" in error
    assert italy(0.7) in ok("list")
    assert "No such file" in refused("import", tmp_path / "none.csv")
