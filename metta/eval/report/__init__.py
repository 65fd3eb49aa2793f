"""The report that `metta analyze` writes: its page, plots and numbers. What is computed lies above it."""
