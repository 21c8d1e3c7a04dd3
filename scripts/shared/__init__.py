"""What the commands share; no command imports another."""
