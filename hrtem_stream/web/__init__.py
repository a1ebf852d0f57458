"""What people look at: the live page and the report. Nothing here can slow or lose a frame."""
