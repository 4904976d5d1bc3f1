"""Speech corpora, and the mixtures made from them."""
