"""Generated examples of what Command-R does: the training and test text of the embedded model."""
