"""Re-analysis of recorded series on several processes or hosts."""
