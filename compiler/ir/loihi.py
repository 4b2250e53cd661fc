"""What the integers of Loihi 2, and of netx, may be: for the passes that make them and the target that checks them."""

#: weights are even and within this; -256 is a special case of the format, and netx clips and shifts what lies beyond
WEIGHT = 254
#: a membrane or the sum of a step must stay below this
STATE = 131_070
#: what a bias may be on the chip
BIAS = 4094
#: the most neurons of a layer that is unrolled into a matrix
UNROLLED = 2000
