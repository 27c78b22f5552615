"""One module a source, behind one interface (`base`); `registry` knows them all."""
