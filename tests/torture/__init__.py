"""Random recipes that are interrupted at random points and must come out as if they were not."""
