"""A recorded episode as a file to open: a film, MettaScope's, an HTML page."""
