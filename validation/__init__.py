"""Evidence about a synthetic table."""
