"""Where the accuracy goes: a spiking network taken apart beside its ANN."""
