"""What training shows: progress on the terminal, curves for TensorBoard. It changes nothing."""
