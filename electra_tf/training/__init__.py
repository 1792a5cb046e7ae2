"""Running a training: the loop, its folder, its metrics."""
