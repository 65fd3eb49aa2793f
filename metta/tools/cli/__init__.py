"""What the commands share: arguments, targets, tables, the terminal. No command imports another."""
