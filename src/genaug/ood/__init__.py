"""Shifts of a dataset: splits that are made out of it, to test on what training did not show."""
