"""What may go out at once, though others of its account wait."""

from collections import Counter

from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.paths import DEFAULT_PATH
from portal.smsc.upstream.takers import OutboundPath

A, B, C = "393331111111", "393332222222", "393333333333"


def make_message(destination: str, account_id: int = 1) -> SubmittedMessage:
    return SubmittedMessage(account_id, "ACME", 5, 0, destination, "IT", "hello", None, 0, 0, None, 1, 1)


def make_path(*destinations: str, put_backs: Counter[int] | None = None) -> OutboundPath:
    """A path on which these are stored to wait, and claimed."""
    path = OutboundPath(DEFAULT_PATH, Counter() if put_backs is None else put_backs)
    for message in map(make_message, destinations):
        path.begin_enqueue(message)
        path.finish_enqueue(message)
    path.most_waiting = 0
    return path


def test_what_goes_to_no_number_that_waits_may_pass():
    path = make_path(A, B)
    assert [path.may_pass(make_message(each)) for each in (A, B, C)] == [False, False, True]


def test_nothing_passes_what_no_claim_has_taken():
    path = make_path(A)
    path.expect_waiting(1)
    assert not path.may_pass(make_message(C))
    path.expect_waiting()
    assert not path.may_pass(make_message(C))


def test_an_account_that_is_emptied_while_more_is_stored_waits_for_that_alone():
    path = make_path(A)
    path.begin_enqueue(make_message(B))
    path.forget_waiting([1])
    assert 1 in path.waiting_account_ids
    assert [path.may_pass(make_message(each)) for each in (A, B)] == [True, False]
    path.finish_enqueue(make_message(B))
    path.forget_waiting([1])
    assert not path.waiting_account_ids


def test_nothing_passes_what_is_not_known():
    put_backs: Counter[int] = Counter()
    for add in (
        lambda path: path.add_waiting([1]),
        lambda path: path.set_waiting([1]),
        lambda path: [path.begin_enqueue(make_message(str(each))) for each in range(1_000)],
    ):
        path = make_path(A, put_backs=put_backs)
        assert path.may_pass(make_message(C))
        add(path)
        assert not path.may_pass(make_message(C))
        path.begin_enqueue(make_message(B))
        assert not path.may_pass(make_message(C))
    put_backs[1] += 1
    path.forget_waiting([1])
    assert not path.may_pass(make_message(C))
    del put_backs[1]
    path.forget_waiting([1])
    assert path.may_pass(make_message(C))


def test_other_accounts_do_not_know_of_it():
    path = make_path(A)
    path.begin_enqueue(make_message(A, 2))
    assert path.may_pass(make_message(B, 2))
    path.forget_waiting([1])
    assert path.waiting_account_ids == {2}
    assert not path.may_pass(make_message(A, 2))


def test_while_something_is_held_only_what_is_to_its_number_waits():
    path = OutboundPath(DEFAULT_PATH, Counter())
    path.add_waiting([1])
    path.most_waiting = 0
    path.begin_enqueue(make_message(B))
    path.note_held(1, [A])
    assert [path.may_pass(make_message(each)) for each in (A, B, C)] == [False, False, True]
    path.begin_enqueue(make_message(C))
    assert not path.may_pass(make_message(C))


def test_what_is_being_put_back_is_not_known_to_be_held():
    path = OutboundPath(DEFAULT_PATH, Counter([1]))
    path.most_waiting = 0
    path.note_held(1, [A])
    assert not path.may_pass(make_message(C))
