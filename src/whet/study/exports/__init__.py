"""A study's report in other formats than HTML: for a repository, a paper, a spreadsheet."""
