"""The judge of samples: a classifier of the data's images, trained once for each data set."""
