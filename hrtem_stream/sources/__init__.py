"""Feeds: one module for each kind. Alone know the words of detectors and files."""
