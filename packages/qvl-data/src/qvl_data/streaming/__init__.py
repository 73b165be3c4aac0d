"""Data larger than memory: rows read in blocks, checked and tokenised as training goes, in an order to go on from."""
