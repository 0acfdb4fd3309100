"""What is kept: the rules, balances and weights of a recipe's stages over columns become views; no picture is decoded."""
