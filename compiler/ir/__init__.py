"""The intermediate representation: types, operations, the graph, and what is known about a graph as such."""
