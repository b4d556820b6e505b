"""A released migration never changes what it executes: databases have applied it already."""

import ast
import hashlib
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations

from portal.core import db
from portal.migrations.steps import migrations
from tests.support import ROOT

FOLDER = ROOT / "portal" / "migrations"
FIRST_RELEASE = ROOT / "tests" / "saved" / "m0002.sql"
NAMES = [each.name for each in migrations._migrations]

# SHA-256 of the statements that each step executes (`digest`), in the order in which the steps run.
EXECUTED = {
    "m0001_initial": "27d2578eeefcb7795c4ea1fd654709204be49eb933bb5f97a9110ee048d09964",
    "m0002_spent_forms": "fd6f3dab8e509bde5a137d55e855e4dc12d5502666f0b89c451d977eb25614b8",
    "m0003_sessions": "55b92423534351671aecd89b08c282c1a64fb000f2a4ed8f62b4eff423d0a03b",
    "m0004_whole_promise": "f082424a1f957a2f5d72cd039eadca6045f106a10a08af3a0916985bd16ccd28",
    "m0005_retries": "4ed781f98cf8d657240acd0e3161f0f998b145284b3fb575a1ec2341d5a2d9ad",
    "m0006_ages_of_receipts": "222094f08e90e46598824dabbad0b05462968e55a982a7777a971784553e2dad",
    "m0007_unfinished_messages": "92dd580b65898b9638584b4b4d12c9879120c621d614a4543e56066063e5c35c",
    "m0008_credits": "e6ad722efbf95dc35d8613dc8dda4364d1e74507b70f77c498560c5563616a26",
    "m0009_senders": "e3e1b53442de31cef34f50c1cd1d7a5d1f181825e74d5db8e395532e86852931",
    "m0011_blacklist_and_received": "38d43cd0932cb5d936b4cd93ea6f5074cc6479422b14790d47b24b784f73c752",
    "m0012_search": "420cb70431020e84cf911846c558b02310c79a013d69c09518eecb7496d52e45",
    "m0013_statistics": "76d6f36f3bdca0012db0fcec520cdf1056f4a7d49430f987e7ef41a96e730278",
    "m0014_deletion": "82ae8b8c31e564107e1d04d66fb3fcd817c03ee1b0ac9b114044a8b2e53faf94",
    "m0015_privacy": "113e7483569e5928ee7a3ea5c235e2a4ddc60783ddac788df988991588b79678",
    "m0016_origins": "e4dd7f485b45ad1fe60d689e3382c3bf186f795d284f6025d41e5910d8231802",
    "m0017_short_ids": "999b5b3176dafe530a0907b72fcbf311c284685e8eb6c4ff11d0a507a6eb9d9d",
    "m0018_account_messages": "a77ddda5abed2a4a0fc368594aba5b05b5c86622239e6912c85ae7f598bba0a1",
    "m0019_outcome_room": "7d1a5028438464400b6c052295d4450155d0a26af08412ed5336f49ca417a81a",
    "m0020_national_numbers": "ababaf343b11f89758ebb80bf550ce48aa200a08065b9ef5ef794166dd5136b7",
    "m0021_hex_ids": "19f39b55ac1d57a05803352a87f42b4f5070da1e2927a0731e6a6c00d5d95508",
    "m0022_invisible_marks": "43f6ea71d5d5cb18ed1087a2de1c74c82d6270ab73d38738527312d72542b6da",
    "m0023_upstreams": "a2862ea6fe64b416b3a18df599f2fda85879b9644465a002f3fcbffbd2e1cf9a",
    "m0024_outbound_queue": "06a9f8d386c742d5af95e6ce2bd36ff3f62c6610733923815dfe06012562cf23",
    "m0025_simulated_messages": "760118fed9b50ab0bc0b1a2c6a0be74b5fd7d6583deae21f87ddf8e4ce35ad3f",
    "m0026_routes": "bf4de5d3889070329ebdb249ec4b325e43bdf17fc3488a0433c7f0d52e6ad2b4",
    "m0027_queue_paths": "50dee47932830753f1f3b210c61ba5d8045f310e3c5c5c12bb5c9cdd30b9eaa7",
    "m0028_message_parts": "da28567be9bfcb8f10d03cc77d19bcf0ef26a254e2b44debb1088300c33610ad",
    "m0029_learned_ids": "84982c30de86d3909bc80fbcb80262286415dc3ce9bcab04020232c260098bba",
    "m0030_message_tlvs": "a2752854364bcfbe24c290cd7130fb59c14a9995909fbaa1ac6d234641133b14",
    "m0031_inbound_parts": "eee6872dfdefe3c88c262f35aa0a0bbb0bfa84fe3c5bbc67d56eaa1fd3d27e4a",
    "m0032_joined_messages": "703453573937bda6ada83383bc8cb8dcf0dc5d0e660f183862be622cefecf8d8",
    "m0033_deleted_messages": "868cf8291b4563351e7eea96c2eebe9ae0a9d4a70208103365cef032490d0d15",
    "m0035_packs_for_sale": "339593370f0fb612088a5fecc2313c438886eb0631dbab3aa9b1972f20d137cb",
    "m0036_refused_logins": "8087df14658619d118e149285924bdabbce2f1ced8eff0813f7f4bfc1b02fe60",
    "m0037_login_networks": "31a3dd58a925da9188e8278cb7ff869a38398b96d80f9d5cd16616646d4bf702",
    "m0040_steered_queue": "3ed51698544a2137bb29923f35ab6a3243b79d30350dfdf65b36de8533a469b3",
    "m0041_brakes": "25317825c42692df746ddd0b742e61d5e211dcc0b9bec97cd8a5d3677336253e",
    "m0042_route_options": "b91c144ca52e6c92618f720221ecf4620f151fa0383f5bbd5805b592cbce8e76",
    "m0043_upstream_figures": "bf06d1ecfec6ec80680bdbd13dd07a1ae9a03fe5ded2e7f64b2ae50bf37604d6",
    "m0044_traces": "c25b119558dca0a58614fb75cf0cee0d9fbc9c0c26fb7500e277a35adfb92169",
    "m0045_alerts": "eeb6ca0668f637c31253b69c6b7357867076d6853c91bb7105feea85c0126310",
    "m0046_timed_messages": "e101b0d62739bab67b6cc92b2e6ddfd53f03480765a4fce5bc417150a4ad7a3d",
    "m0047_refusals": "17f883a13f18b8c689482ee439df9ab43efb2a653070cf4d0aac2665fa052239",
    "m0048_account_requests": "404415cdf46f5b0558767ec13ebb6da39d7646460127e57460fa8901bb5d4891",
    "m0049_refused_days": "d671be336a839c8b6ba36ac38fb03d2eafe511fff254dd8fe5a98f075bfa4cd2",
}
CHANGED = """
{name} executes other statements than those that databases have taken, which would not get the change.
Put the step (or portal/migrations/sql.py, if that has changed) back, and add a new step with the change: a file in
portal/migrations/ with the next number, as steps.py tells. This test tells the new step's hash then.
"""
NEW = """
{name} has no hash yet. Before it is released, add this line at the end of EXECUTED in {test}:
    "{name}": "{digest}",
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The statements that each step executes, as SQLite gets them.

    The first release's steps get an empty file, the others a database that it has left, with rows: a step may execute
    statements for each row. One whose statements depend on rows that are not in there needs another saved database.
    """
    folder = tmp_path_factory.mktemp("steps")
    empty, released = folder / "empty.db", folder / "released.db"
    conn = sqlite3.connect(released)  # without foreign keys: a dump's tables are in no order
    conn.executescript(FIRST_RELEASE.read_text())
    taken = {name for (name,) in conn.execute("SELECT name FROM _sqlite_migrations")}
    conn.close()
    return {
        **statements_of(empty, [each for each in migrations._migrations if each.name in taken]),
        **statements_of(released, [each for each in migrations._migrations if each.name not in taken]),
    }


def statements_of(file: Path, steps: Iterable[Migrations._Migration]) -> dict[str, list[str]]:
    statements: dict[str, list[str]] = {each.name: [] for each in steps}
    conn = db.connect(file)
    database = Database(conn)
    with db.write_transaction(conn):
        for each in steps:
            conn.set_trace_callback(statements[each.name].append)
            each.fn(database)
            conn.set_trace_callback(None)
    conn.close()
    return statements


def digest(statements: Iterable[str]) -> str:
    bare = [without_comments(each) for each in statements]
    # SQLite shows what it does inside of a statement as a comment.
    return hashlib.sha256(";\n".join(each for each in bare if each).encode()).hexdigest()


def without_comments(statement: str) -> str:
    lines = (line for line in statement.strip().splitlines() if not line.lstrip().startswith("--"))
    # A file begins with a comment and an empty line.
    return "\n".join(lines).strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_executes_what_it_always_did(executed, name):
    now = digest(executed[name])
    assert name in EXECUTED, NEW.format(name=name, digest=now, test=Path(__file__).relative_to(ROOT))
    assert now == EXECUTED[name], CHANGED.format(name=name)


def test_each_file_is_a_step_and_each_step_has_its_file_and_its_hash():
    files = [*FOLDER.glob("m[0-9]*.sql"), *FOLDER.glob("m[0-9]*.py")]
    assert sorted({each.stem for each in files}) == NAMES
    assert list(EXECUTED) == NAMES
    for each in files:
        assert each.read_text().startswith("-- " if each.suffix == ".sql" else '"""'), "what it is for"


def test_no_number_is_given_twice():
    matches = [re.fullmatch(r"m(\d{4})_[a-z_]+", name) for name in NAMES]
    numbers = [int(each[1]) for each in matches if each]
    assert len(numbers) == len(NAMES)
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", [*sorted(each.stem for each in FOLDER.glob("m[0-9]*.py")), "sql"])
def test_a_step_uses_nothing_of_the_program_that_may_change(name):
    used: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            used.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            used.add(node.module)
    assert {each for each in used if each.split(".")[0] == "portal"} <= {"portal.migrations.sql"}
