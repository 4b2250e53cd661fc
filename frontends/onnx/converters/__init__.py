"""One function for each ONNX operator: what it is in torch's functions, or in ops of the graph where these say less."""
