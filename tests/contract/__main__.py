"""Print the matrix of pairs: + works, x is refused by declaration."""

from tests.contract.test_pairs import matrix

print(matrix())  # noqa: T201
