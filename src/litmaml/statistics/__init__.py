"""Intervals, confusions, plots."""
