"""Ids in the forms in which carriers write them, and what is learned of these."""

from random import Random

import pytest

from portal.services.common.audit import SHELL
from portal.services.upstreams import message_ids, upstreams
from portal.services.upstreams.message_ids import (
    AS_IS,
    AUTO,
    DEC_TO_HEX,
    FORMS,
    HEX_TO_DEC,
    LEARNED_AFTER,
    IdForms,
    build_message_keys,
    build_receipt_keys,
    fold_id,
)
from tests.services.upstreams.waiting import add_upstream


@pytest.mark.parametrize(
    ("receipt_id", "keys"),
    [
        ("00aB", {"ab": (AS_IS,), "171": (DEC_TO_HEX,)}),
        ("0171", {"171": (AS_IS,), "ab": (HEX_TO_DEC,), "369": (DEC_TO_HEX,)}),
        # In these forms it is the same, so it tells nothing of them.
        ("7", {"7": FORMS}),
        ("3f2504e0-4f89", {"3f2504e0-4f89": (AS_IS,)}),
        ("0x1F", {"x1f": (AS_IS,)}),
        ("+1_0 ", {"+1_0 ": (AS_IS,)}),
        ("é٣", {"é٣": (AS_IS,)}),
        ("000", {"": FORMS}),
        ("", {}),
    ],
)
def test_what_the_id_of_a_message_can_be(receipt_id, keys):
    assert build_message_keys(receipt_id) == keys


def test_each_way_leads_back():
    random = Random(17)
    for _ in range(1_000):
        key = fold_id("".join(random.choice("0123456789abcdefgABCDEF-") for _ in range(random.randrange(1, 64))))
        for other, forms in build_receipt_keys(key).items():
            for form in forms:
                assert form in build_message_keys(other)[key]


def test_twenty_in_a_row_by_one_form_tell_it():
    forms = IdForms(AUTO)
    assert forms.preferred == forms.possible == FORMS
    for _ in range(LEARNED_AFTER - 1):
        assert forms.record_match((HEX_TO_DEC,))
    assert forms.preferred == (HEX_TO_DEC, AS_IS, DEC_TO_HEX)
    # Another one in between: it begins anew.
    assert forms.record_match((AS_IS,))
    assert (forms.form, forms.matches) == (AS_IS, 1)
    for _ in range(LEARNED_AFTER):
        forms.record_match((HEX_TO_DEC,))
    assert [*forms.preferred] == [HEX_TO_DEC]
    assert forms.possible == (HEX_TO_DEC, AS_IS, DEC_TO_HEX)
    # From then on nothing is written for each receipt.
    assert not forms.record_match((HEX_TO_DEC,))
    assert not forms.record_match(FORMS)
    assert forms.record_match((AS_IS,))
    assert forms.preferred == (AS_IS, HEX_TO_DEC, DEC_TO_HEX)


def test_a_form_that_is_set_is_the_only_one_and_nothing_is_learned():
    forms = IdForms(DEC_TO_HEX)
    assert forms.preferred == forms.possible == (DEC_TO_HEX,)
    assert not forms.record_match((DEC_TO_HEX,))


def test_what_was_learned_is_kept_until_something_is_set(conn, keys):
    upstream = add_upstream(conn, keys)
    other = add_upstream(conn, keys, "other", message_ids=HEX_TO_DEC)
    assert message_ids.load_id_forms(conn, [upstream.id, other.id, other.id]) == {
        upstream.id: IdForms(AUTO),
        other.id: IdForms(HEX_TO_DEC),
    }
    for matches in (19, 20):
        message_ids.save_id_forms(conn, upstream.id, IdForms(AUTO, DEC_TO_HEX, matches))
    assert message_ids.load_id_forms(conn, [upstream.id]) == {upstream.id: IdForms(AUTO, DEC_TO_HEX, 20)}
    upstreams.change_upstream(conn, keys, SHELL, upstream, message_ids=AS_IS)
    assert message_ids.load_id_forms(conn, [upstream.id])[upstream.id].preferred == (AS_IS,)
