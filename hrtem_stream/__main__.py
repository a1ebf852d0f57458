"""`python -m hrtem_stream` is the command `hrtem-stream`."""

from hrtem_stream.cli import main

main()
