"""Tests of connections, each in a process of its own: it has an event loop, and may take minutes where nothing answers.

What they have found is in this process's memory alone, for those who look at it now.
"""

import json
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from portal.core import paths
from portal.core.config import Config
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_MAX_RUNNING, _MAX_KEPT = 4, 20
_MAX_SECONDS = 180


class TooManyConnectionTests(Refused):
    sentence = N_("Other connections are being tested at this moment. Try again in a minute.")


@dataclass(eq=False)
class ConnectionTest:
    """A test. Its steps are dicts of `ConnectionStep`; `is_over`: no more will come; `is_broken`: it hasn't come to its
    end by itself.
    """

    id: int
    process: subprocess.Popen[str]
    is_broken: bool = False
    _steps: list[dict[str, Any]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def wait(self, seconds: float) -> None:
        """Wait until it is over, or for so long."""
        self._over.wait(seconds)

    def list_steps(self) -> list[dict[str, Any]]:
        return list(self._steps)

    @property
    def is_good(self) -> bool:
        """Whether all has worked."""
        return self.is_over and not self.is_broken and bool(self._steps) and all(each["ok"] for each in self._steps)

    def read_steps(self) -> None:
        """Read the process's answers to their end."""
        try:
            assert self.process.stdout
            with self.process.stdout as lines:
                for line in lines:
                    self._steps.append(json.loads(line))
        except ValueError:
            self.process.kill()
        finally:
            self.is_broken = self.process.wait() != 0
            self._over.set()


_tests: OrderedDict[int, ConnectionTest] = OrderedDict()
_lock = threading.Lock()
_ids = count(1)


def start(asked: Mapping[str, Any], config: Config) -> ConnectionTest:
    """Begin a test; see `upstream probe`.

    Raises:
        TooManyConnectionTests
    """
    with _lock:
        if sum(not each.is_over for each in _tests.values()) >= _MAX_RUNNING:
            raise TooManyConnectionTests()
        file_options = ["--config", str(config.file)] if config.file is not None else []
        process = subprocess.Popen(
            [*paths.get_program_command_line(), "upstream", "probe", "--data", str(config.data), *file_options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        test = ConnectionTest(next(_ids), process)
        _tests[test.id] = test
        while len(_tests) > _MAX_KEPT:
            _tests.popitem(last=False)
    assert process.stdin
    # One that couldn't even begin says why in the log.
    with suppress(BrokenPipeError), process.stdin:
        json.dump({**asked, "seconds": _MAX_SECONDS}, process.stdin)
    threading.Thread(target=test.read_steps, name="connection test", daemon=True).start()
    return test


def find(test_id: int) -> ConnectionTest | None:
    """None where nobody knows of it any more."""
    return _tests.get(test_id)
