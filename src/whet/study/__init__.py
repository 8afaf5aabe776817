"""Studies: arms times seeds, trained, kept as files, compared in pairs and reported.

Only `node` trains and imports torch; everything else here plans, keeps, computes and shows.
"""
