"""Simulated cameras and feeds, so that everything can be tried without an instrument."""
