"""Fragments that are drawn once, and shown again as long as what they show is the same."""

from collections.abc import Callable

from portal.web.core.fragment_cache import FragmentCache


def pen(drawn: list[int], number: int) -> Callable[[], str]:
    """Draws a number, and notes that it did."""

    def draw() -> str:
        drawn.append(number)
        return str(number)

    return draw


def test_the_same_is_drawn_once() -> None:
    drawings = FragmentCache(10)
    drawn: list[int] = []
    assert [drawings.get_or_render(number, pen(drawn, number)) for number in (1, 2, 1, 2, 1)] == [
        "1",
        "2",
        "1",
        "2",
        "1",
    ]
    assert drawn == [1, 2]


def test_what_came_first_makes_room() -> None:
    drawings = FragmentCache(3)
    drawn: list[int] = []
    for number in (1, 2, 3, 4, 2, 3, 4, 1):
        drawings.get_or_render(number, pen(drawn, number))
    assert drawn == [1, 2, 3, 4, 1]
