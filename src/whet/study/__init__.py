"""Studies: arms times seeds, trained, kept as files, compared in pairs and reported.

Only `node` trains. What keeps, computes and shows imports no torch, and no task's code.
"""

from whet.study.arms import Grid as Grid
