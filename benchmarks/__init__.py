"""What is measured, and the commands that measure it; results stand in docs/results."""
