"""What each measuring stage computes."""
