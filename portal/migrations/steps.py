"""All migrations, in the order in which they are applied. A new one gets a file of its own and comes last.

What a released migration executes must never change, because databases have applied it already; nor must its name,
because they store it. `tests/migrations/test_steps.py` has a hash of what each executes. So a migration uses nothing
from the program that may change, except `sql.py`, which is as fixed as the migrations.
"""

from sqlite_utils import Migrations

from portal.migrations.m0001_initial import m0001_initial
from portal.migrations.m0002_spent_forms import m0002_spent_forms
from portal.migrations.m0003_sessions import m0003_sessions
from portal.migrations.m0004_whole_promise import m0004_whole_promise
from portal.migrations.m0005_retries import m0005_retries
from portal.migrations.m0006_ages_of_receipts import m0006_ages_of_receipts
from portal.migrations.m0007_unfinished_messages import m0007_unfinished_messages
from portal.migrations.m0008_credits import m0008_credits
from portal.migrations.m0009_senders import m0009_senders
from portal.migrations.m0011_blacklist_and_received import m0011_blacklist_and_received
from portal.migrations.m0012_search import m0012_search
from portal.migrations.m0013_statistics import m0013_statistics
from portal.migrations.m0014_deletion import m0014_deletion
from portal.migrations.m0015_privacy import m0015_privacy
from portal.migrations.m0016_origins import m0016_origins
from portal.migrations.m0017_short_ids import m0017_short_ids
from portal.migrations.m0018_account_messages import m0018_account_messages
from portal.migrations.m0019_outcome_room import m0019_outcome_room
from portal.migrations.m0020_national_numbers import m0020_national_numbers
from portal.migrations.m0021_hex_ids import m0021_hex_ids
from portal.migrations.m0022_invisible_marks import m0022_invisible_marks
from portal.migrations.m0023_upstreams import m0023_upstreams
from portal.migrations.m0024_outbound_queue import m0024_outbound_queue
from portal.migrations.m0025_simulated_messages import m0025_simulated_messages
from portal.migrations.m0026_routes import m0026_routes
from portal.migrations.m0027_queue_paths import m0027_queue_paths
from portal.migrations.m0028_message_parts import m0028_message_parts
from portal.migrations.m0029_learned_ids import m0029_learned_ids
from portal.migrations.m0030_message_tlvs import m0030_message_tlvs
from portal.migrations.m0031_inbound_parts import m0031_inbound_parts
from portal.migrations.m0032_joined_messages import m0032_joined_messages
from portal.migrations.m0033_deleted_messages import m0033_deleted_messages

migrations = Migrations("portal")

# There is no m0010: m0012_search had that number on its branch, and got a new one when it was merged.
for step in (
    m0001_initial,
    m0002_spent_forms,
    m0003_sessions,
    m0004_whole_promise,
    m0005_retries,
    m0006_ages_of_receipts,
    m0007_unfinished_messages,
    m0008_credits,
    m0009_senders,
    m0011_blacklist_and_received,
    m0012_search,
    m0013_statistics,
    m0014_deletion,
    m0015_privacy,
    m0016_origins,
    m0017_short_ids,
    m0018_account_messages,
    m0019_outcome_room,
    m0020_national_numbers,
    m0021_hex_ids,
    m0022_invisible_marks,
    m0023_upstreams,
    m0024_outbound_queue,
    m0025_simulated_messages,
    m0026_routes,
    m0027_queue_paths,
    m0028_message_parts,
    m0029_learned_ids,
    m0030_message_tlvs,
    m0031_inbound_parts,
    m0032_joined_messages,
    m0033_deleted_messages,
):
    migrations()(step)
