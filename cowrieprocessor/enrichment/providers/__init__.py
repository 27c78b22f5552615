"""One module per source, behind one interface (`base`); `registry` lists them all."""
