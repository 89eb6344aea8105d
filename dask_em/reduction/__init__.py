"""Many mixtures made one: local fits, or models fitted where the rows have to stay."""
