"""A pytest plugin that writes down every outcome as it comes, so that a run that is ended still says what it found."""

from __future__ import annotations

import json
import os
from pathlib import Path

# The file to append to; one JSON object a line.
VARIABLE = "SEGEXT_TEST_RECORD"


def pytest_configure(config) -> None:
    if not hasattr(config, "workerinput"):  # under xdist the reports of all workers come to the first process
        config.pluginmanager.register(Recorder(Path(os.environ[VARIABLE])))


class Recorder:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "a")  # noqa: SIM115 - stays open for the whole run

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self._write(test=report.nodeid, outcome="error", seconds=0.0, text=report.longreprtext)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or not report.passed:
            outcome = report.outcome if report.when == "call" or report.skipped else "error"
            text = str(report.longrepr[2]) if report.skipped else report.longreprtext
            self._write(test=report.nodeid, outcome=outcome, seconds=report.duration, text=text)

    def pytest_sessionfinish(self, exitstatus) -> None:
        self._write(test="", outcome="finished", seconds=0.0, text=str(int(exitstatus)))

    def _write(self, **fields) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()
