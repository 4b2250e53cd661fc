"""What a graph means: the reference interpreter, and whether two graphs do the same."""
