"""One module for each command. What two of them share lies in `cli`, what computes lies below."""
