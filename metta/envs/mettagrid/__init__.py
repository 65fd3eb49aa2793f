"""MettaGrid's games: rules and maps, and the one environment that steps them."""
