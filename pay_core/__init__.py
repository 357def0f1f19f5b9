"""The payment core: four operations over payment tools and a double-entry ledger. It knows no order and no scene."""
