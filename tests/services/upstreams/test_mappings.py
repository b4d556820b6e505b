"""The small languages in which an upstream's codes are mapped, and the pattern of an id."""

import re
import time

import pytest

from portal.services.common import message_states
from portal.services.upstreams.mappings import (
    ALWAYS_INTERMEDIATE,
    InvalidEntry,
    StatusAction,
    StatusRule,
    parse_error_map,
    parse_id_pattern,
    parse_intermediate_states,
    parse_status_map,
)
from portal.services.upstreams.receipt_texts import MAX_SEARCHED_LENGTH


def test_a_status_map_says_what_is_done():
    assert parse_status_map("") == {}
    assert parse_status_map(" 0x58=throttle, 21 = Retry ,0x45=fail:100,0xFFFFFFFF=fail,") == {
        0x58: StatusRule(StatusAction.THROTTLE),
        0x15: StatusRule(StatusAction.RETRY),
        0x45: StatusRule(StatusAction.FAIL, 100),
        0xFFFFFFFF: StatusRule(StatusAction.FAIL),
    }


@pytest.mark.parametrize(
    "entry",
    [
        "0x58",
        "0x58=",
        "=retry",
        "0x58=wait",
        "0=retry",
        "0x100000000=retry",
        "58h=retry",
        "-1=retry",
        "ESME_RSYSERR=retry",
        "0x58=fail:",
        "0x58=fail:0",
        "0x58=fail:254",
        "0x58=fail:999",
        "0x58=retry:100",
    ],
)
def test_an_entry_of_a_status_map_that_cannot_be_read_is_named(entry):
    with pytest.raises(InvalidEntry) as caught:
        parse_status_map(f"8=retry, {entry}")
    assert caught.value.entry == entry


def test_a_status_stands_once():
    with pytest.raises(InvalidEntry, match="88=fail"):
        parse_status_map("0x58=throttle, 88=fail")


def test_an_error_map_ignores_zeros_in_front_and_letter_case():
    assert parse_error_map("027=6,1f=100, B2C.4=801") == {"27": 6, "1F": 100, "B2C.4": 801}


@pytest.mark.parametrize(
    "entry", ["27", "27=", "=6", "27=0", "27=7777", "2 7=6", "28=0000000061", "2:7=6", f"{'9' * 21}=6", "027=4"]
)
def test_an_entry_of_an_error_map_that_cannot_be_read_is_named(entry):
    with pytest.raises(InvalidEntry) as caught:
        parse_error_map(f"27=6,{entry}")
    assert caught.value.entry == entry


def test_states_that_end_nothing_are_added():
    assert parse_intermediate_states("") == ALWAYS_INTERMEDIATE
    added = {message_states.UNKNOWN, message_states.UNDELIVERABLE}
    assert parse_intermediate_states("unknown, UNDELIVERED") == ALWAYS_INTERMEDIATE | added


@pytest.mark.parametrize("entry", ["DELIVRD", "WHATEVER", "7"])
def test_a_word_that_ends_all_or_says_nothing_cannot_be_intermediate(entry):
    with pytest.raises(InvalidEntry) as caught:
        parse_intermediate_states(f"UNKNOWN, {entry}")
    assert caught.value.entry == entry


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"ref=([0-9A-F]+)", "ref=01AF stat:DELIVRD", "01AF"),
        (r"id\s*[:=]\s*(\w{1,20})", "msg id = 12ab", "12ab"),
        (r"msg ?id[:=] ?(\w{1,20})", "msgid= 12ab", "12ab"),
        (r"^\((\d+)\)", "(17) DELIVRD", "17"),
        (r"id:x?([^ (?+]+)", "id:x7 ", "7"),
        (r"\[\[--(\w+[+-])", "[[--7-", "7-"),
    ],
)
def test_a_pattern_finds_an_id(pattern, text, found):
    match = parse_id_pattern(pattern).search(text)
    assert match
    assert match[1] == found


@pytest.mark.parametrize(
    "pattern",
    [
        "id",
        "(a)(b)",
        "(a",
        "(?:a)(b)",
        "(?i)(a)",
        "((a+)+)b",
        "(a|a)*b",
        "(a)?",
        "(a){2,99}",
        r"(a)\1",
        "(a*)a*a*a*b",
        "(a*)a*a*b",
        "(a*)a*a{2,}b",
        "a?(a*)a*b",
        "a?(a*)a{1,9}b",
        "(a?a?a?a?)b",
        f"({'a' * 99})",
        "(" * 500 + ")" * 500,
        "(a{99999999999})",
        "([[a])",
        "([+--])",
        r"([\]a&&b])",
        "([^a||b])",
    ],
)
def test_a_pattern_that_names_no_id_or_can_take_long_is_refused(pattern):
    with pytest.raises(InvalidEntry):
        parse_id_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [".*.*.{0,99}(x)", "a*a*(a{0,99})b", r"\w*\w*(\w{1,99})!", ".{0,99}.{0,99}.{0,99}(x)", ".?.?.?.*(x)", ".?.?.?(x)"],
)
def test_the_worst_pattern_takes_no_longer_than_a_tenth_of_a_second_or_two(pattern):
    text = ("id=" + "a" * MAX_SEARCHED_LENGTH)[:MAX_SEARCHED_LENGTH]
    compiled: re.Pattern[str] = parse_id_pattern(pattern)
    began = time.process_time()
    assert compiled.search(text) is None
    assert time.process_time() - began < 0.5
