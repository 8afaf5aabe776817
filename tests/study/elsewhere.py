"""`python -m tests.study.elsewhere FOLDER [name=value ...]`: the toy study, trained anywhere.

Workers on other machines know nothing of this process's fakes: they are told what trains.
"""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.study import fakes

TRAIN = "tests.study.fakes:train"


def study(out: Path, methods: str = "good,noise", **given: Any) -> Any:
    """Conduct the study; the modules that know tasks are stand-ins by then."""
    from whet.study.conduct import conduct
    from whet.study.request import Request

    return conduct(Request("toy", methods=methods, out=out, **given), Console(width=200), TRAIN)


if __name__ == "__main__":
    sys.modules.update(fakes.modules())
    from whet.study import curves, figures
    from whet.study.report import page

    figures.forest = figures.picture = page.tradeoff = lambda *_: ""
    curves.panels = lambda *_: []
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    kinds = {"seeds": int, "jobs": int, "executor": Path}
    try:
        study(Path(sys.argv[1]), **{n: kinds.get(n, str)(v) for n, v in words.items()})
    except KeyboardInterrupt:
        sys.exit(130)
