"""One function for each ONNX operator: what it is in ops of the graph."""
