"""A person who has no mouse, and sees where they are by the focus alone."""

from playwright.sync_api import Page, expect

_MAX_KEY_PRESSES = 60

# Where the focus is, in words: the tag, and the label of a field or the text of anything else.
_FOCUSED_JS = """() => {
  const element = document.activeElement;
  const words = element.labels?.[0] ?? element;
  return `${element.tagName} ${words.textContent.trim().replace(/\\s+/g, ' ')}`;
}"""

# Around itself, or around the row that it stands for.
_FOCUS_VISIBLE_JS = """() => [null, '::after'].some((part) => {
  const {outlineStyle, outlineWidth, boxShadow} = getComputedStyle(document.activeElement, part);
  return (outlineStyle !== 'none' && parseFloat(outlineWidth) > 0) || boxShadow !== 'none';
})"""


class Keyboard:
    """Keys, and nothing else."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def press(self, key: str) -> None:
        self._page.keyboard.press(key)

    def type(self, text: str) -> None:
        self._page.keyboard.type(text)

    def move_focus_to(self, words: str, key: str = "Tab") -> None:
        """Press Tab until what has the focus says so; each stop on the way shows that it has it."""
        passed = []
        for _ in range(_MAX_KEY_PRESSES):
            self.press(key)
            passed.append(self.focused_element())
            assert self._page.evaluate(_FOCUS_VISIBLE_JS), f"{passed[-1]} doesn't show that it has the focus"
            if words in passed[-1]:
                return
        raise AssertionError(f"no way to “{words}” by {key}, only to {passed}")

    def focused_element(self) -> str:
        """What has the focus: `BUTTON Add an IP (0/10)`."""
        return str(self._page.evaluate(_FOCUSED_JS))

    def expect_focus(self) -> None:
        """The focus is somewhere, not at the page's top."""
        expect(self._page.locator(":focus:not(body)")).to_have_count(1)
