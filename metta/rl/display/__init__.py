"""What training shows: progress on the terminal, curves for TensorBoard, the answer to Ctrl-C. It changes nothing."""
