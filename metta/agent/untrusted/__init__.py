"""Agent files from elsewhere, loaded without letting their author run code. Nothing else belongs here."""
