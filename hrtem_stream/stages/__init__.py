"""The stages: ingest, normalise, segment, sort."""
