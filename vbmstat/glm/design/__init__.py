"""From a formula and a table to a design matrix, contrasts and subsets."""
