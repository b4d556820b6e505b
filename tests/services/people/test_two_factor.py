import re
import threading
from collections.abc import Callable

import pyotp
import pytest

from portal.core.crypto import Keys, hash_token
from portal.core.db import Connection
from portal.services.people import two_factor
from tests.support import store_as_older_versions

SHORT_CODES = ["aaaaabbbbb", "cccccddddd"]


def test_a_code_is_good_once(conn, keys, cast):
    code = cast.alice.totp_code()
    assert two_factor.verify_totp_code(conn, keys, cast.alice.id, code)
    assert not two_factor.verify_totp_code(conn, keys, cast.alice.id, code)


def test_an_earlier_code_is_not_good_after_a_later_one(conn, keys, cast):
    assert two_factor.verify_totp_code(conn, keys, cast.alice.id, cast.alice.totp_code(1))
    assert not two_factor.verify_totp_code(conn, keys, cast.alice.id, cast.alice.totp_code())


@pytest.mark.parametrize("step", [-3, 3])
def test_codes_of_another_time_are_refused(conn, keys, cast, step):
    assert not two_factor.verify_totp_code(conn, keys, cast.alice.id, cast.alice.totp_code(step))


def test_clocks_may_drift_by_half_a_minute(conn, keys, cast):
    # Three neighbouring steps are good. A boundary may pass between two looks at the clock, so the two in front count.
    assert (
        sum(two_factor.verify_totp_code(conn, keys, cast.alice.id, cast.alice.totp_code(step)) for step in (-1, 0, 1))
        >= 2
    )


@pytest.mark.parametrize("code", ["", "000", "abcdef", "٣٣٣٣٣٣", "1234567", "é" * 6])
def test_what_is_no_code_is_refused(conn, keys, cast, code):
    assert not two_factor.verify_totp_code(conn, keys, cast.alice.id, code)


def test_spaces_in_a_code_do_not_matter(conn, keys, cast):
    code = cast.alice.totp_code()
    assert two_factor.verify_totp_code(conn, keys, cast.alice.id, f" {code[:3]} {code[3:]} ")


def test_somebody_elses_code_is_refused(conn, keys, cast):
    assert not two_factor.verify_totp_code(conn, keys, cast.bob.id, cast.alice.totp_code())


def test_a_code_that_comes_twice_at_the_same_time_is_good_once(connect, keys, cast):
    code = cast.alice.totp_code()
    assert together(connect, lambda conn: two_factor.verify_totp_code(conn, keys, cast.alice.id, code)) == 1


def test_a_recovery_code_that_comes_twice_at_the_same_time_is_good_once(connect, keys, cast):
    code = cast.alice.recovery_codes[0]
    assert together(connect, lambda conn: two_factor.use_recovery_code(conn, keys, cast.alice.id, code)) == 1


def together(connect: Callable[[], Connection], attempt: Callable[[Connection], object], threads: int = 6) -> int:
    """How many of some attempts at the same moment succeed."""
    start, succeeded = threading.Barrier(threads), []

    def run() -> None:
        conn = connect()
        start.wait()
        if attempt(conn):
            succeeded.append(1)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return len(succeeded)


def test_there_are_ten_recovery_codes_and_each_is_good_once(conn, keys, cast):
    assert len(set(cast.alice.recovery_codes)) == 10
    for left, code in enumerate(reversed(cast.alice.recovery_codes)):
        assert two_factor.use_recovery_code(conn, keys, cast.alice.id, code)
        assert not two_factor.use_recovery_code(conn, keys, cast.alice.id, code)
        assert two_factor.count_unused_recovery_codes(conn, cast.alice.id) == 9 - left


def test_recovery_codes_are_read_as_people_write_them(conn, keys, cast):
    code = cast.alice.recovery_codes[0]
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, f" {code.upper().replace('-', ' ')} ")


def test_new_recovery_codes_end_the_old_ones(conn, keys, cast):
    fresh = two_factor.replace_recovery_codes(conn, keys, cast.alice.id)
    assert not two_factor.use_recovery_code(conn, keys, cast.alice.id, cast.alice.recovery_codes[0])
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, fresh[0])


def test_neither_secret_nor_recovery_codes_stand_in_the_database(conn, cast):
    dump = "\n".join(conn.iterdump())
    assert cast.alice.totp_secret not in dump
    for code in cast.alice.recovery_codes:
        assert code not in dump
        assert code.replace("-", "") not in dump


def test_a_recovery_code_has_80_bits_and_is_digested_under_the_key_and_for_its_user(conn, keys, cast):
    for code in cast.alice.recovery_codes:
        assert re.fullmatch(r"[0-9a-hjkmnp-tv-z]{4}(-[0-9a-hjkmnp-tv-z]{4}){3}", code)
    stored = {row[0] for row in conn.execute("SELECT code_hash FROM recovery_codes")}
    characters = cast.alice.recovery_codes[0].replace("-", "")
    assert hash_token(characters) not in stored
    assert keys.digest_recovery_code(cast.alice.id, hash_token(characters)) in stored
    assert not two_factor.use_recovery_code(conn, Keys(b"another key"), cast.alice.id, characters)
    assert not two_factor.use_recovery_code(conn, keys, cast.bob.id, characters)
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, characters)


def test_codes_of_older_versions_are_keyed_and_stay_good(conn, keys, cast):
    store_as_older_versions(conn, cast.alice.id, SHORT_CODES)
    conn.execute("UPDATE recovery_codes SET used_at = 1 WHERE code_hash = ?", (hash_token(SHORT_CODES[1]),))
    others = conn.execute("SELECT code_hash FROM recovery_codes WHERE user_id = ?", (cast.bob.id,)).fetchall()
    two_factor.key_old_recovery_codes(conn, keys)
    stored = {row[0] for row in conn.execute("SELECT code_hash FROM recovery_codes")}
    assert not stored & {hash_token(code) for code in SHORT_CODES}
    assert stored > {row[0] for row in others}  # once keyed, they stay as they are
    two_factor.key_old_recovery_codes(conn, keys)
    assert {row[0] for row in conn.execute("SELECT code_hash FROM recovery_codes")} == stored
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, "AAAAA-BBBBB")
    assert not two_factor.use_recovery_code(conn, keys, cast.alice.id, SHORT_CODES[1])


def test_a_code_of_an_older_version_is_good_before_it_is_keyed(conn, keys, cast):
    store_as_older_versions(conn, cast.alice.id, SHORT_CODES)
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, SHORT_CODES[0])
    assert not two_factor.use_recovery_code(conn, keys, cast.alice.id, SHORT_CODES[0])
    two_factor.key_old_recovery_codes(conn, keys)
    assert not two_factor.use_recovery_code(conn, keys, cast.alice.id, SHORT_CODES[0])
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, SHORT_CODES[1])


def test_a_wrong_code_looks_at_those_of_its_user_alone(conn, keys, cast):
    store_as_older_versions(conn, cast.bob.id, SHORT_CODES)
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    assert not two_factor.use_recovery_code(conn, keys, cast.alice.id, SHORT_CODES[0])
    conn.set_trace_callback(None)
    of_codes = [each for each in statements if "recovery_codes" in each]
    plans = [row["detail"] for each in of_codes for row in conn.execute(f"EXPLAIN QUERY PLAN {each}")]
    assert plans == ["SEARCH recovery_codes USING INDEX recovery_codes_user (user_id=?)"]


def test_the_uri_names_the_installation_and_the_user(conn, keys, cast):
    sealed = conn.execute("SELECT totp_secret FROM users WHERE id = ?", (cast.alice.id,)).fetchone()[0]
    uri = pyotp.parse_uri(two_factor.format_totp_uri(keys, sealed, cast.alice.email, "SMPP Portal"))
    assert (uri.name, uri.issuer, uri.secret) == (cast.alice.email, "SMPP Portal", cast.alice.totp_secret)


def test_a_clock_that_was_wrong_for_a_while_locks_nobody_out(conn, keys, cast):
    conn.execute("UPDATE users SET totp_last_step = totp_last_step + 100000000 WHERE id = ?", (cast.alice.id,))
    assert two_factor.verify_totp_code(conn, keys, cast.alice.id, cast.alice.totp_code())
    assert not two_factor.verify_totp_code(conn, keys, cast.alice.id, cast.alice.totp_code())
