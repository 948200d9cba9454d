"""What every offline method shares: the store of what was made."""
