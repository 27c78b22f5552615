"""From JSON values to the rows that one transaction writes."""
