"""What whet claims and a test is too short for: each program writes its numbers beside itself."""
