"""Episodes of given seeds: played, recorded, made again. Knows neither training nor scores."""
