"""docs/design.md: its diagram of the packages agrees with the import contracts, and each file that it names exists."""

import itertools
import re
import tomllib

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "design.md").read_text()
(DRAWING,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def layers_of(container: str) -> list[list[str]]:
    """The names in each layer of a folder, from top to bottom; those in parentheses don't exist yet."""
    (contract,) = (each for each in CONTRACTS if each.get("containers") == [container])
    return [re.split(r"\s*\|\s*", layer) for layer in contract["layers"] if not layer.startswith("(")]


def test_the_drawing_is_the_contracts():
    rooms = layers_of("portal")
    areas = layers_of("portal.services")
    place = next(index for index, names in enumerate(rooms) if names == ["services"])
    layers = rooms[:place] + areas + rooms[place + 1 :]
    expected = {(above, below) for one, next_one in itertools.pairwise(layers) for above in one for below in next_one}
    arrows = re.findall(r"^\s*(\w+)(?:\[[^\]]*\])? --> (\w+)", DRAWING, re.MULTILINE)
    assert sorted(arrows) == sorted(expected)


def test_the_areas_of_the_services_are_told_from_above_to_below():
    table = PAGE.split("The areas of the services, from above to below:")[1].split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE) == [name for (name,) in layers_of("portal.services")]


def named_files() -> list[str]:
    return sorted(set(re.findall(r"`([\w/]+(?:/|\.(?:py|toml|css|js|svg|md)))`", PAGE)))


def tracked_paths() -> set[str]:
    folders = ("portal", "templates", "static", "tests", "bench", "docs")
    files = [each for folder in folders for each in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    return {f"{each.relative_to(ROOT)}{'/' if each.is_dir() else ''}" for each in files}


PATHS = tracked_paths()


@pytest.mark.parametrize("named", named_files())
def test_a_file_that_is_named_exists(named: str) -> None:
    assert any(path == named or path.endswith(f"/{named}") for path in PATHS)


@pytest.mark.parametrize("area", [name for (name,) in layers_of("portal.services")])
def test_each_module_of_the_services_is_told_in_its_area(area: str) -> None:
    (line,) = re.findall(rf"^\| `{area}/` \|.*$", PAGE, re.MULTILINE)
    modules = {each.name if each.is_file() else f"{each.name}/" for each in (ROOT / "portal/services" / area).iterdir()}
    assert {f"`{name}`" for name in modules - {"__init__.py", "__pycache__/"}} <= set(re.findall(r"`[\w./]+`", line))


def modules_that_are_told_of_smsc() -> set[str]:
    """What the table of the SMPP server names: modules, and folders that stand for all that is in them."""
    table = PAGE.split("The SMPP server, from a client's octets to what they lead to:")[1].split("\n\n")[1]
    told = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        in_folder = re.match(r"`([\w/]+/)`: ", cell)
        names = re.findall(r"`([\w/.]+)`", cell[in_folder.end() :] if in_folder else cell)
        told |= {f"{in_folder[1] if in_folder else ''}{name}" for name in names}
    return told


SMSC = ROOT / "portal/smsc"


@pytest.mark.parametrize(
    "module", sorted(str(each.relative_to(SMSC)) for each in SMSC.rglob("*.py") if each.name != "__init__.py")
)
def test_each_module_of_the_smpp_server_is_told(module: str) -> None:
    told = modules_that_are_told_of_smsc()
    assert module in told or any(module.startswith(each) for each in told if each.endswith("/"))
