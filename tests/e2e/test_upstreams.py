"""An operator adds an upstream, tries it out, and steers it; the carrier is the portal's own SMPP server."""

import re
from collections.abc import Callable
from contextlib import closing

import pytest
from playwright.sync_api import expect

from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.upstreams import unclaimed, upstreams
from tests.e2e.browsing import BrowserTab
from tests.services.messages.test_receipt_matching import NUMBER, build, receive, send
from tests.support import Cast, RunningServer, find_free_port, wait_until

LIST = "/admin/upstreams"


@pytest.fixture
def simulated(server: RunningServer) -> RunningServer:
    """A server whose customers' messages go to a simulator: so what the upstream under test brings back arrives."""
    with closing(server.connect()) as conn:
        upstreams.create_upstream(conn, Keys.load(server.data), SHELL, "sim", kind="simulator")
    return server


def test_one_is_added_tried_and_steered(
    open_tab: Callable[..., BrowserTab], simulated: RunningServer, cast: Cast
) -> None:
    olga = open_tab(simulated)
    olga.open_as(cast.olga, LIST)
    expect(olga.tile("sim")).to_contain_text("ready: it sends nothing")
    olga.button("Add an upstream").click()

    page = olga.page
    name = page.get_by_label("Name", exact=True)
    # Groups of fields stand below each other, and their headings above them.
    others = [page.get_by_label(each, exact=True) for each in ("Host", "SystemID", "Window", "Country of numbers")]
    assert len({each.evaluate("field => field.getBoundingClientRect().x") for each in (name, *others)}) == 1
    name.fill("carrier")
    page.get_by_label("Host", exact=True).fill("127.0.0.1")
    page.get_by_label("Port", exact=True).fill(str(simulated.port))
    page.get_by_label("SystemID").fill(cast.smpp_acme_1.name)
    page.get_by_label("Password").fill("wrong")
    olga.button("Test the connection").click()
    steps = page.locator("#connection-test")
    expect(steps).to_contain_text("answers in")
    expect(steps).to_contain_text("ESME_RINVPASWD 0x0E: the password isn't the one that the carrier has")
    # What was typed is still there.
    expect(page.get_by_label("Password")).to_have_value("wrong")
    page.get_by_label("Password").fill(cast.smpp_acme_1.password)
    olga.button("Test the connection").click()
    expect(steps).to_contain_text("All works with these settings. The test has saved nothing: press “Save”.")
    olga.button("Save").click()
    olga.expect_toast("carrier was added. It connects now.")

    card = olga.tile("carrier")
    # Nobody reloads the page.
    expect(card).to_contain_text("bound since")
    send = olga.tile("Send a test message")
    send.get_by_label("Number").fill("+39 340 1234567")
    send.get_by_label("Sender").fill("ACME")
    send.get_by_role("button", name="Send").click()
    olga.expect_toast("The test message is being sent.")
    expect(send.locator("#test-messages")).to_contain_text("393401234567 has arrived")
    expect(send.locator("#test-messages")).to_contain_text("the carrier’s id:")

    card.get_by_role("link", name="Disable").click()
    expect(olga.dialog).to_contain_text("Nothing waits for it.")
    olga.dialog.get_by_role("button", name="Disable carrier").click()
    olga.expect_toast("carrier was disabled.")
    expect(page).to_have_url(re.compile(f"{LIST}$"))
    expect(olga.tile("carrier")).to_contain_text("disabled")
    olga.tile("carrier").get_by_role("link", name="Enable").click()
    olga.dialog.get_by_role("button", name="Enable carrier").click()
    expect(olga.tile("carrier")).to_contain_text("bound since")


def test_a_question_on_a_page_of_its_own_is_acted_on(
    open_tab: Callable[..., BrowserTab], simulated: RunningServer, cast: Cast
) -> None:
    olga = open_tab(simulated)
    # As from a bookmark, or in a new tab.
    olga.open_as(cast.olga, f"{LIST}/1/drain")
    olga.button("Drain sim").click()
    olga.expect_toast("sim is being drained.")
    expect(olga.page).to_have_url(re.compile(f"{LIST}/1$"))
    olga.page.goto(f"/admin/accounts/{cast.smpp_acme_1.name}/disable")
    olga.button(f"Disable {cast.smpp_acme_1.name}").click()
    olga.expect_toast(f"{cast.smpp_acme_1.name} was disabled.")
    olga.expect_account_status("Disabled")


def test_a_new_password_is_typed_and_saved_by_the_keyboard(
    open_tab: Callable[..., BrowserTab], simulated: RunningServer, cast: Cast
) -> None:
    with closing(simulated.connect()) as conn:
        upstreams.create_upstream(
            conn,
            Keys.load(simulated.data),
            SHELL,
            "carrier",
            password="wrong",
            host="127.0.0.1",
            port=simulated.port,
            system_id=cast.smpp_acme_1.name,
        )
    olga = open_tab(simulated)
    olga.open_as(cast.olga, LIST)
    olga.tile("carrier").get_by_role("link", name="Enter a new password").press("Enter")
    password = olga.page.get_by_label("Password")
    expect(password).to_be_focused()
    olga.page.keyboard.type(cast.smpp_acme_1.password)
    olga.page.keyboard.press("Enter")
    olga.expect_toast("carrier was changed. It holds at once.")
    expect(olga.tile("carrier")).to_contain_text("bound since")


def test_the_form_works_without_javascript(
    open_tab: Callable[..., BrowserTab], simulated: RunningServer, cast: Cast
) -> None:
    olga = open_tab(simulated, java_script_enabled=False)
    olga.open_as(cast.olga, f"{LIST}/add")
    page = olga.page
    page.get_by_label("Name", exact=True).fill("carrier")
    page.get_by_label("Host", exact=True).fill("127.0.0.1")
    page.get_by_label("Port", exact=True).fill("70000")
    page.get_by_label("SystemID").fill(cast.smpp_acme_1.name)
    page.get_by_label("Password").fill(cast.smpp_acme_1.password)
    olga.button("Save").click()
    olga.expect_text("can't be the value of port")
    expect(page.get_by_label("Host", exact=True)).to_have_value("127.0.0.1")
    page.get_by_label("Port", exact=True).fill(str(simulated.port))
    page.get_by_label("Password").fill(cast.smpp_acme_1.password)
    olga.button("Test the connection").click()
    olga.expect_text("All works with these settings.")
    page.get_by_label("Password").fill(cast.smpp_acme_1.password)
    olga.button("Save").click()
    olga.expect_toast("carrier was added. It connects now.")
    olga.button("Remove").click()
    olga.button("Remove carrier").click()
    olga.expect_toast("carrier was removed.")


def test_its_pdus_are_traced_live(open_tab: Callable[..., BrowserTab], simulated: RunningServer, cast: Cast) -> None:
    with closing(simulated.connect()) as conn:
        carrier = upstreams.create_upstream(
            conn,
            Keys.load(simulated.data),
            SHELL,
            "carrier",
            password=cast.smpp_acme_1.password,
            host="127.0.0.1",
            port=simulated.port,
            system_id=cast.smpp_acme_1.name,
            enquire_link_seconds=1,
        )
    olga = open_tab(simulated)
    olga.open_as(cast.olga, f"{LIST}/{carrier.id}")
    olga.page.get_by_role("link", name="Trace").click()
    olga.page.get_by_label("Minutes").fill("soon")
    olga.button("Start").click()
    olga.expect_text("A trace takes from 1 to 60 minutes.")
    expect(olga.page.get_by_label("Minutes")).to_have_value("soon")
    olga.page.get_by_label("Minutes").fill("1")
    olga.button("Start").click()
    olga.expect_toast("The PDUs of carrier are traced.")
    # Nobody reloads the page.
    row = olga.page.get_by_role("row").filter(has_text="enquire_link_resp").first
    expect(row).to_contain_text("ESME_ROK 0x00")
    olga.button("Stop").click()
    olga.expect_toast("The trace of carrier was stopped.")
    olga.expect_text("ended at")


def test_the_likely_setting_is_set_and_a_number_added(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    numbers = range(0xAB00, 0xAB0A)
    with closing(server.connect()) as conn:
        carrier = upstreams.create_upstream(
            conn,
            Keys.load(server.data),
            SHELL,
            "carrier",
            password="secret",
            host="127.0.0.1",
            port=find_free_port(),
            system_id="acme",
            message_ids="as-is",
        )
        send(conn, cast.smpp_acme_1.id, [f"{each:x}" for each in numbers])
        receive(conn, *(build(str(each), upstream=carrier.id) for each in numbers))
        unclaimed.keep_unowned_messages(conn, [(1_800_000_000_000, carrier.id, NUMBER, "48480", "hello")])
        olga = open_tab(server)
        olga.open_as(cast.olga, LIST)
        olga.page.get_by_role("link", name="Receipts that match nothing", exact=True).click()
        olga.expect_text("10 ids match when those of submit_sm_resp are read as hexadecimal")
        olga.page.get_by_role("button", name="Set it").click()
        olga.expect_toast("It is set.")
        # The SMPP server does it.
        wait_until(lambda: not conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0])
    olga.page.reload()
    olga.expect_text("There is none")

    olga.page.goto(f"{LIST}/unowned")
    olga.button("Add 48480").click()
    expect(olga.dialog.get_by_label("Number")).to_have_value("48480")
    olga.dialog.get_by_label("Account").fill("smpp-nobody-9")
    olga.dialog.get_by_role("button", name="Add").click()
    expect(olga.dialog).to_contain_text("There is no account “smpp-nobody-9”.")
    olga.dialog.get_by_label("Account").fill(cast.smpp_acme_1.name)
    olga.dialog.get_by_role("button", name="Add").click()
    olga.expect_toast(f"What is sent to 48480 reaches {cast.smpp_acme_1.name}.")
