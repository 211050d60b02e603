"""Reports: several runs as one page of figures and tables that opens anywhere."""
