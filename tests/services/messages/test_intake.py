"""What is stored of a message."""

from portal.core.clock import now_ms
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.messages import blacklist, intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from tests.support import prepare_submit


def test_a_row_has_room_for_its_outcome_until_it_has_one(conn, acme_1):
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393409999999")
    submits = [
        prepare_submit(conn, acme_1.id),
        prepare_submit(conn, acme_1.id, reference=1),
        prepare_submit(conn, acme_1.id, destination="393409999999"),
    ]
    intake.store_messages(conn, submits)
    rooms = "SELECT length(outcome_room) FROM messages ORDER BY id"
    assert [row[0] for row in conn.execute(rooms)] == [40, 40, None]
    ended = [MessageOutcome(each.id, DELIVERED, 0, now_ms(), "an id", "a status") for each in submits[:2]]
    outcomes.finish_messages(conn, ended)
    assert [row[0] for row in conn.execute(rooms)] == [None, None, None]
