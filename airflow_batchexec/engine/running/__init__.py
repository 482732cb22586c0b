"""Files through predictors: the pipeline, a whole execution on this machine, one file alone."""
