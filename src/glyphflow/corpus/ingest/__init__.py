"""How pictures come in: from folders, tars, tables, edits and pages into shards, exactly once, with what is said of them."""
