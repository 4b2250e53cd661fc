"""One function for each of torch's functions: what it is in ops of the graph."""
