"""What people read: the table at the end of a run and the comparison tables of stored runs."""
