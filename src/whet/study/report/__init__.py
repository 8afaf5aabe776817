"""One HTML file that opens anywhere, offline: what helped, by how much, at what cost.

`page` puts it together; every other module makes a part of it: `headline` the verdicts that it
opens with, `facts` what is said of the study, `sections` the families of arms, `checks` equal time,
confirmation and tuning, `grids` tables of arms by placement, data or partner, `sharing` which
trainings were shared. Figures come from `whet.study.figures`, `tradeoff`, `curves` and `plots`.
"""

from whet.study.report.page import build

__all__ = ["build"]
