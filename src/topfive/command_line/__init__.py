"""What the commands are called with: declarations only, heavy modules load when a command runs."""
