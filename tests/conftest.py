"""One thread per worker: several share the machine, and sums keep their order."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before torch is imported, and for every process that tests start
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
torch.set_num_interop_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix of pairs whenever pairs were run."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    if any("test_pairs.py::test_pair[" in getattr(report, "nodeid", "") for report in reports):
        from tests.contract.test_pairs import matrix

        terminalreporter.section("pairs of methods: + composes, x is refused by declaration")
        terminalreporter.write_line(matrix())
