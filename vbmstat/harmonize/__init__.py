"""ComBat: remove the effects of sites from maps and tables."""
