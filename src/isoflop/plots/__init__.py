"""L5: result rows become chart specifications; nothing is computed here."""
