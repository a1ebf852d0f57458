"""Arrays in, arrays out: illumination, Bragg filter, coverage, ranking, run lengths."""
