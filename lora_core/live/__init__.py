"""A stack as side paths: factors beside the weights, strengths in one vector, nothing of the model changed."""
