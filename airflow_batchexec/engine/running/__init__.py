"""Running predictors: the file pipeline, local executions, and single files."""
