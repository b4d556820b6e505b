"""A wall clock that is set while the program runs."""

from pathlib import Path


class Clock:
    """The wall clock of a server that was started with `environment`. Clocks that only count aren't touched."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(Path(__file__).parent), "FAULTS_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set it ahead of the real time, or behind it."""
        # Replaced and not rewritten: nobody may read half of it.
        beside = self._file.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.rename(self._file)
