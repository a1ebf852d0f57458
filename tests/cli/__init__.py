"""Tests of hrtem_stream.cli."""
