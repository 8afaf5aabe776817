"""What whet costs, against a loop written by hand and against other libraries."""
