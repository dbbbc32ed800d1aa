"""Parameters, expressions and the points that they leave."""
